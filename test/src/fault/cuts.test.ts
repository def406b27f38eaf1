/** A stream cut at any byte, of the main channel or of a channel: refused, never half taken. */
import assert from "node:assert/strict";
import { decodeMainStream, parseVmDescription, type QemuCompression, walkDeviceSections } from "@multifd/protocol";
import type { Recording } from "../recorder.js";
import type { Faults } from "../replayer.js";
import { HEADER_BYTES, INIT_BYTES, walkPackets } from "./packet-walk.js";
import { recordQemu } from "./recordings.js";
import { assertRefused, type DueRefusal } from "./refusal.js";

/** As many receivers at once: each waits more than it works. */
const AT_ONCE = 4;
/** Where a connection that has said too little is waited for in vain, and where it must not end a case. */
const IMPATIENT_MS = 150;
const PATIENT_MS = 15_000;
const methods: readonly QemuCompression[] = ["none", "zlib", "zstd"];
const RANDOM_CUTS = 60;
const MAIN_MAGIC_BYTES = 4;

/** Whoever notices first: the stream that ends, or the write on a connection that is gone. */
const mainCut: DueRefusal = { code: ["STREAM_CUT", "CHANNEL_BROKEN"], says: /main channel/ };
const channelCut: DueRefusal = {
  code: ["CHANNEL_CUT", "CHANNEL_ENDED_EARLY", "CHANNEL_BROKEN"],
  says: /channel [01]/,
};
const neverCame: DueRefusal = { code: "CHANNELS_MISSING", says: /did not come within/ };

describe("a receiver refuses a stream cut", function () {
  this.timeout(60_000);
  const recordings = new Map<QemuCompression, Recording>();
  /** With one channel, for half the threads: where main is cut, the channels do not matter. */
  let mainRecording: Recording;
  let legacyRecording: Recording;
  before(async () => {
    for (const method of methods) recordings.set(method, await recordQemu("11.1", method));
    mainRecording = await recordQemu("11.1", "none", 1);
    legacyRecording = await recordQemu("7.2", "none", 1);
  });

  const cutMain = (recording: Recording, cuts: Iterable<number>) =>
    forEachAtOnce(cuts, (cutMainAt) =>
      refuseCut(recording, "none", { cutMainAt }, cutMainAt < MAIN_MAGIC_BYTES ? neverCame : mainCut),
    );
  const cutChannel = (method: QemuCompression, channel: number, cuts: Iterable<number>) =>
    forEachAtOnce(cuts, (bytes) => {
      const due = bytes < INIT_BYTES ? neverCame : channelCut;
      return refuseCut(recordings.get(method)!, method, { cutChannelAt: { channel, bytes } }, due);
    });

  it("at each of the main channel's first 400 bytes", () => cutMain(mainRecording, range(0, 400)));

  it("before, at and behind every border of the main channel's sections", async () => {
    const { main } = mainRecording;
    const borders = (await sectionBorders(main)).flatMap((border) => [border - 1, border, border + 1]);
    const cuts = new Set(borders.filter((cut) => cut < main.length));
    assert.ok(cuts.size > 60, "the machine has its devices");
    await cutMain(mainRecording, cuts);
  });

  it("anywhere else on the main channel", () => cutMain(mainRecording, randomCuts(1, mainRecording.main.length)));

  it("in the middle of the zero pages that QEMU 7.2 sends on the main channel", () =>
    cutMain(legacyRecording, randomCuts(2, legacyRecording.main.length).slice(0, 20)));

  it("at each byte of a channel's first message", () => cutChannel("none", 0, range(0, INIT_BYTES + 1)));

  it("in a packet's header: its fields, some of its page offsets, and the last byte", () => {
    const recording = recordings.get("none")!;
    const { at } = walkPackets(recording, 1).find(({ normalPages }) => normalPages > 0)!;
    const cuts = [...range(0, 80), ...range(316, 332), ...range(400, HEADER_BYTES, 97), HEADER_BYTES - 1];
    return cutChannel(
      "none",
      1,
      cuts.map((cut) => at + cut),
    );
  });

  it("before, at and behind every packet's border, up to the last SYNC", () => {
    const recording = recordings.get("none")!;
    const packets = walkPackets(recording, 1);
    const cuts = packets.flatMap(({ at, payloadBytes }, index) => {
      const next = at + HEADER_BYTES + payloadBytes;
      const isLast = index === packets.length - 1;
      return [at + HEADER_BYTES, next - 1, ...(isLast ? [] : [next, next + 1])];
    });
    return cutChannel("none", 1, new Set(cuts.filter((cut) => cut < recording.channels[1]!.length)));
  });

  for (const method of methods) {
    it(`anywhere on a channel of compression ${method}`, () => {
      const recording = recordings.get(method)!;
      const cuts = randomCuts(3, recording.channels[0]!.length).slice(0, 25);
      return cutChannel(method, 0, cuts);
    });
  }

  async function refuseCut(recording: Recording, compression: QemuCompression, faults: Faults, due: DueRefusal) {
    const handshakeTimeoutMs = due === neverCame ? IMPATIENT_MS : PATIENT_MS;
    const receiver = { compression, channels: recording.channels.length, handshakeTimeoutMs };
    try {
      await assertRefused({ recording, faults, receiver }, due);
    } catch (cause) {
      throw new Error(`cut at ${JSON.stringify(faults)}: ${(cause as Error).message}`, { cause });
    }
  }
});

/** Where sections and RAM records begin and end. */
async function sectionBorders(main: Uint8Array): Promise<number[]> {
  const borders = new Set<number>();
  let taken = 0;
  const view = new DataView(main.buffer, main.byteOffset, main.byteLength);
  const advance = (bytes: number) => {
    taken += bytes;
    return taken - bytes;
  };
  const source = {
    get available() {
      return main.length - taken;
    },
    get position() {
      return taken;
    },
    fill: async (bytes: number) => main.length - taken >= bytes,
    take: (bytes: number) => {
      const at = advance(bytes);
      return main.subarray(at, at + bytes);
    },
    u8: () => view.getUint8(advance(1)),
    u16: () => view.getUint16(advance(2)),
    u32: () => view.getUint32(advance(4)),
    u64: () => Number(view.getBigUint64(advance(8))),
  };
  for await (const event of decodeMainStream(source)) {
    borders.add(taken);
    if (event.kind !== "devices") continue;
    const first = taken - event.bytes.length;
    const { sections, end } = walkDeviceSections(event.bytes, parseVmDescription(event.description));
    for (const { at } of sections) borders.add(first + at);
    borders.add(first + end);
  }
  return [...borders];
}

function range(from: number, to: number, step = 1): number[] {
  return Array.from({ length: Math.ceil((to - from) / step) }, (_, index) => from + index * step);
}

/** Cuts that the seed determines, below `length`: a linear congruential generator is random enough to aim with. */
function randomCuts(seed: number, length: number): number[] {
  let state = seed;
  return Array.from({ length: RANDOM_CUTS }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * length);
  });
}

async function forEachAtOnce<T>(all: Iterable<T>, run: (one: T) => Promise<void>): Promise<void> {
  const left = [...all];
  const runner = async () => {
    for (let next = left.shift(); next !== undefined; next = left.shift()) await run(next);
  };
  await Promise.all(Array.from({ length: AT_ONCE }, runner));
}
