/** Thread entry of a receiving channel: takes its task, runs it, answers. */
import { type ChannelResult, type ReceiveTask, runReceiveChannel } from "@multifd/dataplane";

export default function receiveChannel(task: ReceiveTask): ChannelResult {
  return runReceiveChannel(task);
}
