/**
 * Test fixture: a source and its guest, with a place where it finds a destination of raw bytes.
 */
import assert from "node:assert/strict";
import { join } from "node:path";
import { FixtureSource, MAPPINGS, makeSocketDir, type Outcome, STATE, settle, sourceJob } from "./fixture.js";
import { slot32 } from "./fixture-descriptors.js";
import { COMPLETE, config, OK, RawListener, type RawPeer, rangeTable, request, START, state } from "./fixture-raw.js";
import { runCloudHypervisorSource } from "./source.js";
import type { CloudHypervisorSourceJob } from "./source-job.js";

export type Way = CloudHypervisorSourceJob["memory"];
/** What a source says at a step, and what its guest has been asked for when it waits for the answer. */
export type SourceStep = {
  readonly name: string;
  readonly wire: (source: FixtureSource) => Uint8Array;
  readonly calls: readonly string[];
};

/** Everything that a source says on its main channel, whose guest does not write. */
export function sourceSteps(way: Way): readonly SourceStep[] {
  const start: SourceStep = { name: "start", wire: () => START, calls: [] };
  const configured: SourceStep = { name: "config", wire: (source) => config(source.config), calls: [] };
  const slots = MAPPINGS.map(
    ({ slot }): SourceStep => ({
      name: `slot ${slot}`,
      wire: () => Buffer.concat([request(7, 4), slot32(slot)]),
      calls: [],
    }),
  );
  const last: readonly SourceStep[] = [
    { name: "state", wire: () => state(STATE), calls: ["pause", "snapshot"] },
    { name: "complete", wire: () => COMPLETE, calls: ["pause", "snapshot"] },
  ];
  switch (way) {
    case "stream":
      return [start, configured, { name: "memory", wire: wholeRam, calls: [] }, ...last];
    case "descriptors":
      return [start, ...slots, configured, ...last];
    case "on-demand":
      return [start, configured, ...last];
  }
}

export class Sending {
  readonly #directory = makeSocketDir();
  readonly socketPath = join(this.#directory.path, "in.sock");
  readonly source = new FixtureSource();
  readonly #peers: RawPeer[] = [];
  #listener: RawListener | null = null;

  static async open(): Promise<Sending> {
    const sending = new Sending();
    sending.#listener = await RawListener.listen(sending.socketPath);
    return sending;
  }

  close(): void {
    for (const peer of this.#peers.splice(0)) peer.close();
    this.#listener?.close();
    this.source.close();
    this.#directory.drop();
  }

  /** Starts the source, and waits for its main channel. */
  async start(more: Partial<CloudHypervisorSourceJob> = {}) {
    const outcome = settle(runCloudHypervisorSource(sourceJob(this.source, this.socketPath, more)));
    return { outcome, peer: await this.next() };
  }

  /** The source's next connection. */
  async next(): Promise<RawPeer> {
    const peer = await this.#listener!.next();
    this.#peers.push(peer);
    return peer;
  }

  /** Answers every step before this one, and takes this one. */
  async answerUpTo(peer: RawPeer, way: Way, name: string): Promise<void> {
    for (const step of sourceSteps(way)) {
      await expect(peer, step.wire(this.source), step.name);
      if (step.name === name) return;
      peer.write(OK);
    }
  }
}

function wholeRam(source: FixtureSource): Buffer {
  const table = rangeTable(...MAPPINGS.map(({ gpa, bytes }) => [gpa, bytes] as const));
  return Buffer.concat([request(4, table.length), table, ...source.content()]);
}

/** Takes exactly this. */
export async function expect(peer: RawPeer, due: Uint8Array, what: string): Promise<void> {
  const came = await peer.take(due.length);
  assert.equal(came.length, due.length, `${what}: the source ended`);
  if (Buffer.compare(came, due) === 0) return;
  assert.equal(came.subarray(0, 64).toString("hex"), Buffer.from(due.subarray(0, 64)).toString("hex"), what);
  assert.fail(`${what}: differs behind its first 64 bytes`);
}

/** The code that a migration failed with. */
export async function failure(outcome: Promise<Outcome>): Promise<string> {
  const result = await outcome;
  assert.ok(!result.ok, "the migration was to fail");
  return result.code;
}
