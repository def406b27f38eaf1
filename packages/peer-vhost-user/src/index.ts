/**
 * vhost-user: a front-end that moves a back-end's state and harvests its dirty pages, and a library to write back-ends with.
 */
export { type Announcement, type AnnounceRounds, announceGuest, DEFAULT_ANNOUNCE_ROUNDS } from "./announce.js";
export { AttachedDevice, type GuestSide, type Ring, type RingEvents, type SharedLog } from "./attached-device.js";
export { BackEnd, type BackEndEvent } from "./back-end.js";
export type { BackEndDevice } from "./back-end-device.js";
export type { SessionEvent } from "./back-end-session.js";
export { DestinationWithBackEnds, type WaitingBackEnd } from "./destination-with-back-ends.js";
export type { Chain, DeviceQueue } from "./device-queue.js";
export { LOG_PAGE_BYTES } from "./dirty-log.js";
export { deviceFeature, featureSet, hasBit, nameProtocolFeatures, protocolFeature } from "./features.js";
export { FrontEnd, type FrontEndTerms, type Inflight } from "./front-end.js";
export { type GuestRun, LogTracker } from "./log-tracker.js";
export type { MemoryRegion } from "./memory-table.js";
export type { Negotiated } from "./negotiated-channel.js";
export { RngDevice } from "./rng-device.js";
export { SourceWithBackEnds } from "./source-with-back-ends.js";
export { DEFAULT_STATE_TERMS, loadState, type StateTerms, saveState } from "./state-transfer.js";
