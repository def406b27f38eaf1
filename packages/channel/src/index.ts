export { type Address, formatAddress, parseAddress, resolveAddress } from "./address.js";
export { Channel } from "./channel.js";
export { Listener } from "./listener.js";
export { MainChannel } from "./main-channel.js";
