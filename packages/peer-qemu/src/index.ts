export { QemuDestinationPeer } from "./destination-peer.js";
export { type DeviceFile, readDeviceFile, writeDeviceFile } from "./device-file.js";
export { type Dialect, dialectOf } from "./dialect.js";
export { QmpClient, type QmpEvent } from "./qmp-client.js";
export type { ReceptionTerms } from "./reception.js";
export { QemuRelayPeer } from "./relay-peer.js";
export { QemuSourcePeer, type QemuSourceTerms } from "./source-peer.js";
