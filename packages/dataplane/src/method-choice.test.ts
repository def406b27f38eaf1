import assert from "node:assert/strict";
import { PACKET_GUEST_BYTES } from "@multifd/protocol";
import {
  type Chooser,
  type Link,
  type Machine,
  type PacketCost,
  type SentPacket,
  simulate,
} from "./fixture-simulation.js";
import { MethodChoice } from "./method-choice.js";

type Kind = "cached" | "text" | "random";

const methods = ["none", "lz4", "zstd"];
/** Of each kind of pages, by each method; per packet, in ms on one core. */
const costs: Readonly<Record<Kind, readonly PacketCost[]>> = {
  cached: [
    { codeMs: 0, decodeMs: 0, ratio: 1 },
    { codeMs: 0.75, decodeMs: 0.2, ratio: 0.5 },
    { codeMs: 1.35, decodeMs: 0.7, ratio: 0.39 },
  ],
  text: [
    { codeMs: 0, decodeMs: 0, ratio: 1 },
    { codeMs: 0.9, decodeMs: 0.25, ratio: 0.45 },
    { codeMs: 1.6, decodeMs: 0.8, ratio: 0.25 },
  ],
  random: [
    { codeMs: 0, decodeMs: 0, ratio: 1 },
    { codeMs: 0.1, decodeMs: 0, ratio: 1 },
    { codeMs: 0.2, decodeMs: 0, ratio: 1 },
  ],
};
const READ_MS = 0.25;
const PLACE_MS = 0.4;
/** A sample is one eighth of a packet. */
const SAMPLES = 8;

/** Both ends on two cores; on two of their own each; on as many as they like. */
const machines = [
  { text: "2 cores for both ends", cores: 2, destinationCores: 0 },
  { text: "2 cores each", cores: 2, destinationCores: 2 },
  { text: "8 cores each", cores: 8, destinationCores: 8 },
];

const pipe = (mibPerSecond: number, bufferMib = 0.2): Link => ({ mibPerSecond, bufferMib });
const limit = (limitMibPerSecond: number): Link => ({ mibPerSecond: 4000, bufferMib: 0.2, limitMibPerSecond });

/** Numbers from 0 to 1, the same for the same seed. */
function* numbers(seed: number): Generator<number, never> {
  for (let state = seed; ; ) {
    state = (state * 1664525 + 1013904223) % 2 ** 32;
    yield state / 2 ** 32;
  }
}

/** Kinds of guest RAM, packet by packet, in runs of some. */
function mixed(packets: number): readonly Kind[] {
  const next = numbers(1);
  const kinds: Kind[] = [];
  while (kinds.length < packets) {
    const kind = next.next().value < 0.3 ? "random" : "cached";
    for (let run = 1 + Math.floor(next.next().value * 5); run > 0; run--) kinds.push(kind);
  }
  return kinds.slice(0, packets);
}

const contents: readonly (readonly [string, (packets: number) => readonly Kind[]])[] = [
  ["mixed", mixed],
  ["text", (packets) => Array<Kind>(packets).fill("text")],
  ["random", (packets) => Array<Kind>(packets).fill("random")],
];

const fixed = (method: number): Chooser => ({ method: () => method, sent: () => 0 });

/** Chooses as channels do: channel 0, of what all got done. */
class Choosing implements Chooser {
  /** The method of each packet, as they were claimed. */
  readonly used: number[] = [];
  readonly #choice: MethodChoice;
  readonly #kinds: readonly Kind[];
  #heardMs = 0;
  #sums = { bytes: 0, prepareMs: 0, prepareCpuMs: 0, heldMs: 0, wireBytes: 0 };

  constructor(channels: number, kinds: readonly Kind[]) {
    this.#choice = new MethodChoice(methods.length, channels);
    this.#kinds = kinds;
  }

  method(): number {
    this.used.push(this.#choice.next);
    return this.#choice.next;
  }

  sent(channel: number, packet: SentPacket): number {
    const { index, nowMs, prepareMs, prepareCpuMs, heldMs, msPerWireByte, wireBytes } = packet;
    const sums = this.#sums;
    sums.bytes += PACKET_GUEST_BYTES;
    sums.prepareMs += prepareMs;
    sums.prepareCpuMs += prepareCpuMs;
    sums.heldMs += heldMs;
    sums.wireBytes += wireBytes;
    if (channel !== 0) return 0;
    this.#choice.progress({ ...sums, msPerWireByte, ms: nowMs - this.#heardMs });
    this.#heardMs = nowMs;
    this.#sums = { bytes: 0, prepareMs: 0, prepareCpuMs: 0, heldMs: 0, wireBytes: 0 };
    if (!this.#choice.sampleDue) return 0;
    const bytes = PACKET_GUEST_BYTES / SAMPLES;
    const results = costs[this.#kinds[index]!].map(({ codeMs, ratio }) => ({
      ms: (READ_MS + codeMs) / SAMPLES,
      wireBytes: bytes * ratio,
    }));
    this.#choice.sample(bytes, results);
    return results.reduce((sum, { ms }) => sum + ms, 0);
  }
}

type Setting = { readonly channels: number; readonly cores: number; readonly destinationCores: number };

function move(kinds: readonly Kind[], linkAt: (packet: number) => Link, setting: Setting, chooser: Chooser): number {
  const { channels, cores, destinationCores } = setting;
  const machine: Machine = { channels, cores, destinationCores, readMs: READ_MS, placeMs: PLACE_MS };
  return simulate(kinds.length, machine, linkAt, (packet, method) => costs[kinds[packet]!][method]!, chooser);
}

/** Asserts that choosing costs little over the best method, known beforehand. */
function assertNearBest(kinds: readonly Kind[], link: Link, setting: Setting, times: number): void {
  const fixedMs = methods.map((_, method) => move(kinds, () => link, setting, fixed(method)));
  const choosing = new Choosing(setting.channels, kinds);
  const ms = move(kinds, () => link, setting, choosing);
  const shares = methods.map((name, method) => `${name} ${choosing.used.filter((each) => each === method).length}`);
  const text = `${Math.round(ms)} ms (${shares.join(", ")}), the fixed methods ${fixedMs.map(Math.round).join(", ")}`;
  assert.ok(ms <= times * Math.min(...fixedMs), text);
}

describe("choosing a method", () => {
  // Four gigabytes of normal pages.
  const packets = 8192;
  for (const [name, guest] of contents) {
    for (const channels of name === "random" ? [2] : [1, 2, 4]) {
      for (const machine of machines) {
        const where = `${name}, ${channels} ${channels === 1 ? "channel" : "channels"}, ${machine.text}`;
        for (const mibPerSecond of [50, 200, 800]) {
          it(`is as good as the best under a limit of ${mibPerSecond} MiB/s: ${where}`, () => {
            assertNearBest(guest(packets), limit(mibPerSecond), { ...machine, channels }, 1.05);
          });
        }
        for (const mibPerSecond of [25, 100, 400, 4000]) {
          it(`is as good as the best through a pipe of ${mibPerSecond} MiB/s: ${where}`, () => {
            assertNearBest(guest(packets), pipe(mibPerSecond), { ...machine, channels }, 1.05);
          });
        }
        it(`is as good as the best with 4 MiB under way on each channel: ${where}`, () => {
          // While a destination short of CPU time still decodes what was sent before, a cheaper method looks worse than it is.
          const times = machine.destinationCores === 0 ? 1.25 : 1.05;
          assertNearBest(guest(packets), pipe(200, 4), { ...machine, channels }, times);
        });
      }
    }
  }

  const setting = { channels: 2, cores: 4, destinationCores: 4 };

  it("follows a link that becomes slow, and fast again", () => {
    const linkAt = (packet: number) => (Math.floor(packet / 3000) % 2 === 0 ? pipe(3000) : pipe(60));
    const kinds = mixed(12000);
    const choosing = new Choosing(setting.channels, kinds);
    const ms = move(kinds, linkAt, setting, choosing);
    for (const [method, name] of methods.entries())
      assert.ok(ms < 0.97 * move(kinds, linkAt, setting, fixed(method)), name);
    const raw = (from: number) => choosing.used.slice(from, from + 1000).filter((each) => each === 0).length / 1000;
    const shares = [2000, 5000, 8000, 11000].map(raw);
    assert.deepEqual(
      shares.map((share) => (share > 0.9 ? "raw" : share < 0.1 ? "compressed" : share)),
      ["raw", "compressed", "raw", "compressed"],
    );
  });

  it("goes by a limit at once: all of a gigabyte, and no credit is spent on packets as they are", () => {
    const kinds = mixed(2048);
    for (const mibPerSecond of [25, 100, 200]) {
      assertNearBest(kinds, limit(mibPerSecond), setting, 1.05);
      const choosing = new Choosing(setting.channels, kinds);
      move(kinds, () => limit(mibPerSecond), setting, choosing);
      const raw = choosing.used.lastIndexOf(0);
      assert.ok(raw < 16, `packet ${raw} still went as it was, under ${mibPerSecond} MiB/s`);
    }
  });

  it("does not waver: a link that stays as it is sees few trials", () => {
    const choosing = new Choosing(setting.channels, mixed(16000));
    move(mixed(16000), () => pipe(2500), setting, choosing);
    const others = choosing.used.slice(8000).filter((method) => method !== 0).length;
    assert.ok(others <= 200, `${others} packets of another method in the second half`);
  });

  it("tries a method on all channels at once, and no channel by itself", () => {
    const choice = new MethodChoice(2, 4);
    assert.equal(choice.next, 0);
    // Everything waits for the wire, and the other method would halve what goes over it at no cost.
    for (let sent = 0; sent < 40 && choice.next === 0; sent++) {
      choice.progress({
        bytes: 4 * PACKET_GUEST_BYTES,
        prepareMs: 1,
        prepareCpuMs: 1,
        heldMs: 0,
        msPerWireByte: 0,
        wireBytes: 2 ** 21,
        ms: 20,
      });
      choice.sample(PACKET_GUEST_BYTES, [
        { ms: 0.2, wireBytes: PACKET_GUEST_BYTES },
        { ms: 0.3, wireBytes: PACKET_GUEST_BYTES / 2 },
      ]);
    }
    assert.equal(choice.next, 1);
  });
});
