/**
 * Event endpoint: any program that tells its migration as JSON lines, as `multifd` does.
 */
import { COMPLETION_TIMEOUT_MS, type Destination, type SourceFigures } from "./endpoint.js";
import { EventProcess } from "./event-process.js";
import { ProcessMeter } from "./process-meter.js";

const READY_TIMEOUT_MS = 20_000;

/** A destination that says `listening` and `completed`. */
export async function startDestination(name: string, command: string, args: readonly string[]): Promise<Destination> {
  const process = new EventProcess(name, command, args);
  try {
    const listening = await process.expect("listening", READY_TIMEOUT_MS);
    const meter = new ProcessMeter(process.pid);
    return {
      address: String(listening.address),
      completed: async () => {
        await process.expect("completed", COMPLETION_TIMEOUT_MS);
        const usage = meter.stop();
        await process.release();
        return usage;
      },
      stop: async () => {
        meter.cancel();
        await process.stop();
      },
    };
  } catch (error) {
    await process.stop();
    throw error;
  }
}

/**
 * A source that says `connected` before it starts its threads, and `completed` with its figures.
 *
 * What it used before `connected` is starting up; the moment until we have heard of it is some tenths of a millisecond.
 *
 * @param ready  Called when it stands by, if it does; it begins when that has resolved.
 */
export async function runSource(
  name: string,
  command: string,
  args: readonly string[],
  ready: (() => Promise<void>) | null = null,
): Promise<SourceFigures> {
  const process = new EventProcess(name, command, args);
  let meter: ProcessMeter | null = null;
  try {
    if (ready !== null) {
      await process.expect("ready", READY_TIMEOUT_MS);
      await ready();
      process.begin();
    }
    await process.expect("connected", READY_TIMEOUT_MS);
    meter = new ProcessMeter(process.pid);
    const result = await process.expect("completed", COMPLETION_TIMEOUT_MS);
    const usage = meter.stop();
    await process.release();
    return { ...usage, wallMs: Number(result.totalMs), wireBytes: Number(result.wireBytes) };
  } finally {
    meter?.cancel();
    await process.stop();
  }
}
