/** Thread entry of a range channel: takes its port, obeys it, and ends when it is told to. */
import { type RangeChannelTask, runRangeChannel } from "@multifd/dataplane";

export default function rangeChannel(task: RangeChannelTask): Promise<void> {
  return runRangeChannel(task);
}
