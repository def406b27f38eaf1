import assert from "node:assert/strict";
import { MethodChoice } from "./method-choice.js";

const MIB = 2 ** 20;
const PACKET = MIB / 2;
/** ms per MiB to read, and to compress each kind of page; and what of it goes over the wire. */
const READ_MS = 0.15;
const methods = [
  { name: "none", cached: { ms: 0, ratio: 1 }, random: { ms: 0, ratio: 1 } },
  { name: "lz4", cached: { ms: 1.7, ratio: 0.55 }, random: { ms: 0.2, ratio: 1 } },
  { name: "zstd", cached: { ms: 2.6, ratio: 0.43 }, random: { ms: 0.4, ratio: 1 } },
] as const;

/** What stands between the two ends. */
type Link = {
  readonly mibPerSecond: number;
  /** What the kernel takes before send blocks. */
  readonly bufferMib: number;
  /** CPU time that a destination on a busy machine needs per MiB, while nobody else gets any. */
  readonly placeMs?: number;
  /** The same, to decode it. */
  readonly decodeMs?: number;
};

/** Numbers from 0 to 1, the same for the same seed. */
function* numbers(seed: number): Generator<number, never> {
  for (let state = seed; ; ) {
    state = (state * 1664525 + 1013904223) % 2 ** 32;
    yield state / 2 ** 32;
  }
}

/** Kinds of guest RAM, packet by packet, in runs of some. */
function guest(packets: number, randomShare: number, seed = 1): ("cached" | "random")[] {
  const next = numbers(seed);
  const kinds: ("cached" | "random")[] = [];
  while (kinds.length < packets) {
    const kind = next.next().value < randomShare ? "random" : "cached";
    for (let run = 1 + Math.floor(next.next().value * 5); run > 0; run--) kinds.push(kind);
  }
  return kinds.slice(0, packets);
}

/** Sends packets over a link, in time that is only counted. @returns milliseconds in all, and what each packet bore. */
function send(
  kinds: readonly ("cached" | "random")[],
  linkAt: (packet: number) => Link,
  choice: MethodChoice | number,
) {
  let nowMs = 0;
  let backlogMib = 0;
  const used: number[] = [];
  const wait = (ms: number, { mibPerSecond }: Link) => {
    nowMs += ms;
    backlogMib = Math.max(0, backlogMib - (ms * mibPerSecond) / 1000);
  };
  for (const [packet, kind] of kinds.entries()) {
    const link = linkAt(packet);
    const startMs = nowMs;
    const method = typeof choice === "number" ? choice : choice.next;
    const { ms, ratio } = methods[method]![kind];
    wait((READ_MS + ms) / 2, link);
    const preparedMs = nowMs;
    const isCoded = ratio < 1;
    wait(((link.placeMs ?? 0) + (isCoded ? (link.decodeMs ?? 0) : 0)) / 2, link);
    backlogMib += ratio / 2;
    if (backlogMib > link.bufferMib) wait(((backlogMib - link.bufferMib) * 1000) / link.mibPerSecond, link);
    used.push(method);
    if (typeof choice === "number") continue;
    choice.sent(PACKET, preparedMs - startMs, (READ_MS + ms) / 2, nowMs - startMs, PACKET * ratio);
    const sampled = choice.sampleDue;
    if (sampled < 0) continue;
    const sample = methods[sampled]![kind];
    wait((READ_MS + sample.ms) / 16, link);
    choice.sample(sampled, MIB / 16, (READ_MS + sample.ms) / 16, (MIB / 16) * sample.ratio);
  }
  return { ms: nowMs, used };
}

/** Asserts that choosing costs little over the best method, known beforehand: a twentieth, or `over`. */
function assertNearBest(kinds: readonly ("cached" | "random")[], linkAt: (packet: number) => Link, over = 1.05) {
  const fixed = methods.map((_, method) => send(kinds, linkAt, method).ms);
  const { ms, used } = send(kinds, linkAt, new MethodChoice(methods.length));
  const best = Math.min(...fixed);
  const shares = methods.map(({ name }, method) => `${name} ${used.filter((each) => each === method).length}`);
  const fixedText = fixed.map((each) => Math.round(each)).join(", ");
  assert.ok(ms <= over * best, `${Math.round(ms)} ms (${shares.join(", ")}), the fixed methods took ${fixedText}`);
}

describe("choosing a method", () => {
  // A gigabyte of normal pages on one channel.
  for (const mibPerSecond of [5, 25, 50, 100, 200, 300, 400, 600, 1000, 2000, 4000]) {
    for (const bufferMib of [0.2, 4]) {
      for (const randomShare of [0, 0.3, 1]) {
        it(`is as good as the best: ${mibPerSecond} MiB/s, buffers of ${bufferMib} MiB, ${randomShare * 100} % random`, () => {
          const link = { mibPerSecond, bufferMib };
          // Where each packet is a world of its own, and 4 MiB of it under way, a trial of a few says little.
          const over = randomShare === 0.3 && bufferMib === 4 ? 1.12 : 1.05;
          assertNearBest(guest(2048, randomShare), () => link, over);
        });
      }
    }
  }

  for (const decodeMs of [0.3, 1, 3]) {
    it(`sees that a slow destination is no slow link: ${decodeMs} ms per MiB to decode`, () => {
      const link = { mibPerSecond: 8000, bufferMib: 0.2, placeMs: 0.8, decodeMs };
      assertNearBest(guest(2048, 0.3), () => link);
    });
  }

  it("follows a link that becomes slow, and fast again", () => {
    const fast = { mibPerSecond: 3000, bufferMib: 0.2 };
    const slow = { mibPerSecond: 60, bufferMib: 0.2 };
    const linkAt = (packet: number) => (Math.floor(packet / 1500) % 2 === 0 ? fast : slow);
    const kinds = guest(6000, 0.3);
    const { ms, used } = send(kinds, linkAt, new MethodChoice(methods.length));
    for (const method of [0, 1, 2]) assert.ok(ms < 0.95 * send(kinds, linkAt, method).ms, methods[method]!.name);
    assert.ok(used.slice(1300, 1500).every((method) => method === 0));
    assert.ok(used.slice(2800, 3000).filter((method) => method === 2).length > 150);
    assert.ok(used.slice(4300, 4500).filter((method) => method === 0).length > 150);
  });

  it("does not waver: a link that stays as it is sees fewer trials the longer it lasts", () => {
    const link = { mibPerSecond: 1500, bufferMib: 0.2 };
    const { used } = send(guest(8000, 0.3), () => link, new MethodChoice(methods.length));
    const others = (from: number, to: number) => used.slice(from, to).filter((method) => method !== 0).length;
    assert.ok(others(4000, 8000) <= 100, `${others(4000, 8000)} packets of another method in the second half`);
  });
});
