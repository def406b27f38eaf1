export { type Address, formatAddress, parseAddress } from "./address.js";
export { Channel } from "./channel.js";
export { type DialTerms, dial } from "./dial.js";
export { Listener } from "./listener.js";
export { MainChannel } from "./main-channel.js";
export { readTlsCredentials, type TlsKind } from "./tls-credentials.js";
export { TlsPump } from "./tls-pump.js";
export type { TlsConnectTerms, TlsListenTerms } from "./tls-terms.js";
