/**
 * Refusal: what every fault must come to at the destination.
 *
 * Exactly one error with a code and a place, `failed` told last and once, the
 * source answered with SHUT and failure or with a closed connection, and nothing
 * left on disk that could be taken for a guest. A case that hangs is ended by
 * mocha's timeout, and that is its failure.
 */
import assert from "node:assert/strict";
import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { formatAddress } from "@multifd/channel";
import { MigrationError } from "@multifd/protocol";
import { type ReceiverOptions, startReceiver } from "../e2e/receiver.js";
import { createScratchDir, removeScratchDir } from "../peers/index.js";
import type { Recording } from "../recorder.js";
import { type Faults, replayMigration } from "../replayer.js";
import { CHANNELS } from "./recordings.js";

/** A stream, and how it is spoilt on its way. */
export type SpoiltStream = {
  readonly recording: Recording;
  readonly faults?: Faults;
  /** What differs from a receiver that would take the stream as it was recorded. */
  readonly receiver?: Partial<ReceiverOptions>;
};

/** The error that is due: its code, or one of several where the kernel decides who notices first. */
export type DueRefusal = { readonly code: string | readonly string[]; readonly says: RegExp };

/** Where a receiver puts what it takes. */
export type OutputPaths = { readonly ram: string; readonly devices: string };

export function outputPaths(dir: string): OutputPaths {
  return { ram: join(dir, "ram"), devices: join(dir, "devices") };
}

/** Replays the stream towards a new receiver, and asserts that it is refused as due and leaves nothing behind. */
export async function assertRefused(stream: SpoiltStream, due: DueRefusal): Promise<void> {
  const dir = createScratchDir();
  try {
    await assertRefusedIn(dir, stream, due);
    assert.deepEqual(readdirSync(dir), [], "nothing is left behind");
  } finally {
    removeScratchDir(dir);
  }
}

/** As `assertRefused`, in a directory whose files the caller looks at. */
export async function assertRefusedIn(dir: string, stream: SpoiltStream, due: DueRefusal): Promise<void> {
  const { ram, devices } = outputPaths(dir);
  const receiver = await startReceiver({
    listen: `unix:${join(dir, "socket")}`,
    channels: CHANNELS,
    compression: "none",
    ram: { "pc.ram": ram },
    devices,
    ...stream.receiver,
  });
  const replayed = replayMigration(formatAddress(receiver.address), stream.recording, stream.faults);
  const [ended, { shut }] = await Promise.all([receiver.result.then(() => null, ownError), replayed]);
  assert.ok(ended !== null, "the receiver took what it had to refuse");
  const codes = typeof due.code === "string" ? [due.code] : due.code;
  assert.ok(codes.includes(ended.code), `${ended.code}: ${ended.message}\ncame, ${codes.join(" or ")} was due`);
  assert.match(ended.message, due.says);
  assert.notEqual(shut, 0, "the source is never told that it went well");
  const failures = receiver.events.filter(({ event }) => event === "failed" || event === "completed");
  assert.deepEqual(failures, [{ event: "failed", code: ended.code, message: ended.message }]);
  assert.equal(receiver.events.at(-1), failures[0], "`failed` is the last word");
  assert.ok(!existsSync(`${ram}.partial`) && !existsSync(`${devices}.partial`), "no unfinished file is left");
  assert.ok(!existsSync(devices), "no device part is left");
}

/** Lets errors through that we raise on purpose; anything else is a defect and fails the test with its stack. */
export function ownError(error: unknown): MigrationError {
  if (error instanceof MigrationError) return error;
  throw error;
}
