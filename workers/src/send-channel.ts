/** Thread entry of a sending channel: takes its task, runs it, answers. */
import { type ChannelResult, runSendChannel, type SendTask } from "@multifd/dataplane";

export default function sendChannel(task: SendTask): ChannelResult {
  return runSendChannel(task);
}
