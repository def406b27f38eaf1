export { DEVICE_STATE_BYTES_MAX, DeviceStage } from "./device-stage.js";
export { createFrameLog, createPageMap, type FrameLog, frameLogCount, frameLogEnd } from "./frame-log.js";
export { type FrameDue, FrameReader } from "./frame-reader.js";
export { FrameWriter } from "./frame-writer.js";
export type {
  ChannelResult,
  DeviceStateArrived,
  MusterTask,
  ReceiveBlock,
  ReceiveTask,
  RelayReceiveTask,
  RelaySendTask,
  SaveTask,
  SendTask,
} from "./messages.js";
export { attendMuster, dismissMuster } from "./muster.js";
export { PACKET_KIND, PacketRing } from "./packet-ring.js";
export { runRangeChannel } from "./range-channel.js";
export type {
  RangeAnswer,
  RangeBlockEntry,
  RangeChannelTask,
  RangeOrder,
  ReceivedDescriptors,
} from "./range-messages.js";
export { runReceiveChannel } from "./receive-channel.js";
export { runRelayReceive } from "./relay-receive.js";
export { runRelaySend } from "./relay-send.js";
export { RelaySlots, SLOT_BYTES } from "./relay-slots.js";
export { runSaveChannel } from "./save-channel.js";
export { runSendChannel } from "./send-channel.js";
export { announceLimit, type ChannelTotals, createCounters, sumCounters } from "./shared-words.js";
export { SyncBarrier } from "./sync-barrier.js";
export { createZeroMarks, takeZeroRuns } from "./zero-marks.js";
