/**
 * Test fixture: one receiving thread over a socket that the test writes to; it is channel 1 of 2.
 */
import { Socket } from "node:net";
import { MessageChannel } from "node:worker_threads";
import { closeDescriptor, createMemfd, socketPair } from "@multifd/native";
import type { PacketMethod } from "@multifd/protocol";
import { PAGE, runInThread, testBlock } from "./fixture.js";
import { createFrameLog, createPageMap } from "./frame-log.js";
import type { ChannelResult, DeviceStateArrived } from "./messages.js";
import { createCounters, sumCounters } from "./shared-words.js";
import { SyncBarrier } from "./sync-barrier.js";

const CHANNEL = 1;
const CHANNELS = 2;
/** Where block "ram" begins in a snapshot's file. */
export const FILE_PAGE = 3;

export type Options = {
  readonly compression?: PacketMethod;
  /** Where packets may bear more than that one. */
  readonly methods?: readonly PacketMethod[];
  readonly through?: "file" | "mapping" | "fresh pages";
  readonly startsZeroed?: boolean;
  /** Where the pages go in a file of a snapshot: `struck-off` places them from page `filePage` on, `frames` appends them. */
  readonly snapshot?: "struck-off" | "frames";
  /** False: no device-state packet is admitted but by `admit`. */
  readonly admits?: boolean;
  /** Name and pages of each block; "ram" with 256 unless given. */
  readonly blocks?: readonly (readonly [string, number])[];
};

/** Starts the thread; feed it, and wait for its end. */
export function receiving(options: Options) {
  const { compression = "none", methods = [compression], snapshot } = options;
  const { through = "file", startsZeroed = true, blocks = [["ram", 256]] } = options;
  const [near, far] = socketPair();
  const writer = new Socket({ fd: far });
  writer.on("error", () => {}); // the thread may end before it has read all
  const barrier = new SyncBarrier(CHANNELS);
  const counters = createCounters(CHANNELS);
  const opened = blocks.map(([name, pages]) => testBlock(name, pages));
  const { port1, port2 } = new MessageChannel();
  const states: DeviceStateArrived[] = [];
  port1.on("message", (state: DeviceStateArrived) => {
    states.push(state);
    if (options.admits !== false) barrier.admitDeviceState(CHANNEL);
  });
  const written = opened.map(({ mapping }) => writtenBits(mapping.lengthBytes / PAGE, startsZeroed));
  const log = createFrameLog(createMemfd("test:snapshot", 0), 1);
  const pageMaps = opened.map(({ mapping }) => createPageMap(mapping.lengthBytes / PAGE));
  const find = (name: string) => opened.find((block) => block.name === name)!;
  const task = {
    channel: CHANNEL,
    descriptor: near,
    pageBytes: PAGE,
    methods,
    blocks: opened.map(({ name, descriptor, lengthBytes, mapping, fresh }, index) => ({
      name,
      lengthBytes,
      target: {
        lengthBytes: BigInt(lengthBytes),
        file: through === "mapping" ? -1 : snapshot === undefined ? descriptor : log.file,
        fileOffsetBytes: snapshot === "struck-off" ? BigInt(FILE_PAGE * PAGE) : 0n,
        address: through === "file" ? 0n : BigInt(through === "mapping" ? mapping.address : fresh.mapping.address),
        fresh: through === "fresh pages" ? fresh.descriptor : -1,
      },
      written: written[index]!,
      ...(snapshot === "struck-off" && { zeroPages: snapshot }),
      ...(snapshot === "frames" && { pageMap: pageMaps[index]! }),
    })),
    ...(snapshot === "frames" && { frames: log }),
    barrier: barrier.shared,
    channels: CHANNELS,
    counters,
    devices: port2,
  };
  const ended = runInThread<ChannelResult>({ kind: "receive", task }, [port2]);
  let over = false;
  const isOver = () => {
    over = true;
  };
  ended.then(isOver, isOver);
  const page = (index: number, name = "ram") => find(name).page(index);
  const met = (sync: number) => !barrier.missing(sync).includes(CHANNEL);
  return {
    page,
    write: (index: number, bytes: Uint8Array) => find("ram").write(index, bytes),
    feed: (...pieces: readonly Uint8Array[]) => {
      for (const piece of pieces) writer.write(piece);
    },
    release: (sync: number) => barrier.release(sync),
    releaseForGood: () => barrier.releaseForGood(),
    admit: () => barrier.admitDeviceState(CHANNEL),
    giveUp: () => barrier.giveUp(),
    /** Resolves when the channel has met its SYNC number `sync`, or has ended. */
    arrived: async (sync: number) => {
      for (let { bell } = barrier; !met(sync) && !over; { bell } = barrier) await barrier.waitForBell(bell, 1000);
    },
    get totals() {
      return sumCounters(counters);
    },
    get deviceStates() {
      return barrier.deviceStates;
    },
    /** Ends the stream, waits for the thread, and keeps the blocks to be looked at until `close`. */
    end: async () => {
      writer.end();
      const result = await ended;
      const closed = new Promise((resolve) => port1.once("close", resolve));
      port1.close();
      await closed;
      writer.destroy();
      closeDescriptor(near);
      let syncs = 0;
      while (met(syncs + 1)) syncs++;
      return {
        result,
        states,
        syncs,
        totals: sumCounters(counters),
        ended: barrier.ended(CHANNEL),
        page,
        /** Descriptor of the snapshot's file, and its accounts of block "ram". */
        snapshot: { file: log.file, present: new Int32Array(written[0]!), pageMap: new Int32Array(pageMaps[0]!) },
        storedBytes: () => find("ram").storedBytes(),
        close: () => {
          for (const block of opened) block.close();
          closeDescriptor(log.file);
        },
      };
    },
  };
}

/** Feeds a whole channel, no SYNC holding it up. */
export function receiveWire(wire: Uint8Array, options: Options = {}) {
  const channel = receiving(options);
  channel.releaseForGood();
  channel.feed(wire);
  return channel.end();
}

function writtenBits(pages: number, startsZeroed: boolean): SharedArrayBuffer {
  const bits = new SharedArrayBuffer(Math.ceil(pages / 32) * 4);
  if (!startsZeroed) new Uint8Array(bits).fill(0xff);
  return bits;
}
