/**
 * Test fixtures: a directory for sockets, and a thread that blocks in a receive.
 */
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Worker } from "node:worker_threads";

/** A directory of its own for each test of the suite that calls this; `path` names something in it. */
export function socketDirectory(): (name: string) => string {
  let directory = "";
  beforeEach(() => {
    directory = mkdtempSync(join(tmpdir(), "multifd-"));
  });
  afterEach(() => rmSync(directory, { recursive: true, force: true }));
  return (name) => join(directory, name);
}

/** Receives `count` bytes on a thread that is about to block; `received` answers how many came before the end. */
export async function receiveInThread(descriptor: number, count: number): Promise<{ received: Promise<number> }> {
  const thread = new Worker(new URL("./fixture-thread.js", import.meta.url), { workerData: { descriptor, count } });
  await once(thread, "message");
  return { received: once(thread, "message").then(([bytes]) => bytes as number) };
}
