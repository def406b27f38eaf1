/** Thread entry of a receiving channel: takes a task, runs it until its stream ends, answers. */
import {
  attendMuster,
  type ChannelResult,
  type MusterTask,
  type ReceiveTask,
  runReceiveChannel,
} from "@multifd/dataplane";

export default function receiveChannel(task: MusterTask | ReceiveTask): ChannelResult {
  return "present" in task ? attendMuster(task) : runReceiveChannel(task);
}
