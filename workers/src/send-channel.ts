/** Thread entry of a sending channel: takes a task, runs it until its ring stops, answers. */
import { attendMuster, type ChannelResult, type MusterTask, runSendChannel, type SendTask } from "@multifd/dataplane";

export default function sendChannel(task: MusterTask | SendTask): ChannelResult {
  return "present" in task ? attendMuster(task) : runSendChannel(task);
}
