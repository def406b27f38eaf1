/** Thread entry of a save channel: takes a task, runs it until its ring stops, answers. */
import { attendMuster, type ChannelResult, type MusterTask, runSaveChannel, type SaveTask } from "@multifd/dataplane";

export default function saveChannel(task: MusterTask | SaveTask): ChannelResult {
  return "present" in task ? attendMuster(task) : runSaveChannel(task);
}
