/** Thread entry of a relay channel, incoming or outgoing: takes a task, runs it until it is told to stop, answers. */
import {
  attendMuster,
  type ChannelResult,
  type MusterTask,
  type RelayReceiveTask,
  type RelaySendTask,
  runRelayReceive,
  runRelaySend,
} from "@multifd/dataplane";

export default function relayChannel(task: MusterTask | RelayReceiveTask | RelaySendTask): ChannelResult {
  if ("present" in task) return attendMuster(task);
  return task.side === "incoming" ? runRelayReceive(task) : runRelaySend(task);
}
