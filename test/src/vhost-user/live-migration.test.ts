/**
 * A live migration that takes a virtiofsd along: RAM with the rings, the back-end's state, the ring bases.
 *
 * The guest is the test: it reads a file over and over through the back-end's virtqueue while its RAM moves,
 * stops when it is paused, and reads on at the destination with the same node id and file handle.
 */

import assert from "node:assert/strict";
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import {
  BitmapTracker,
  collectDeviceState,
  type DestinationGuest,
  type DeviceName,
  type RamSource,
  runDestination,
  runSource,
  type SourceGuest,
} from "@multifd/engine";
import { describeRamBlock } from "@multifd/memory";
import { filesLeftOpen, type OpenFiles, openFiles } from "@multifd/native/fixture-open-files";
import { QemuDestinationPeer, QemuSourcePeer } from "@multifd/peer-qemu";
import {
  AttachedDevice,
  DestinationWithBackEnds,
  deviceFeature,
  type FrontEnd,
  featureSet,
  SourceWithBackEnds,
} from "@multifd/peer-vhost-user";
import { ReceivingGuest } from "../fault/receiving-guest.js";
import {
  BackEndProcess,
  createScratchDir,
  DriverQueue,
  FUSE_ROOT,
  FuseSession,
  GuestMemory,
  removeScratchDir,
  virtiofsd,
} from "../peers/index.js";

const CONTENT = "what a live migration must not lose\n";
const RINGS_AT = 0x1_0000;
const REQUESTS_AT = 0x2_0000;
const RUNS = [
  { guestAddress: 0, lengthBytes: 2 ** 20 },
  { guestAddress: 2 ** 32, lengthBytes: 2 ** 20 },
];
const GUEST_RUNS = [
  { block: 0, offsetBytes: 0, ...RUNS[0]! },
  { block: 0, offsetBytes: 2 ** 20, ...RUNS[1]! },
];
const NAME = "files";

describe("a live migration with a virtiofsd", () => {
  let dir: string;
  let share: string;
  let instances = 0;
  const closers: (() => unknown)[] = [];
  before(() => {
    dir = createScratchDir("disk");
    share = join(dir, "share");
    mkdirSync(join(share, "d"), { recursive: true });
    writeFileSync(join(share, "d", "hello"), CONTENT);
  });
  let openBefore: OpenFiles;
  beforeEach(() => {
    openBefore = openFiles();
  });
  afterEach(async () => {
    for (const close of closers.splice(0).reverse()) await close();
    assert.deepEqual(await filesLeftOpen(openBefore), [], "no descriptor is left");
  });
  after(() => removeScratchDir(dir));

  async function start(): Promise<{ frontEnd: FrontEnd; process: BackEndProcess }> {
    const socket = join(dir, `${instances++}.sock`);
    const process = new BackEndProcess(virtiofsd(socket, share));
    closers.push(() => process.stop());
    const frontEnd = await process.connect(socket);
    closers.push(() => frontEnd.close());
    return { frontEnd, process };
  }

  function queuesOf(memory: GuestMemory): readonly DriverQueue[] {
    const queues = [0, 1].map((index) => new DriverQueue(memory, index, RINGS_AT + index * 0x3000, 16));
    closers.push(() => {
      for (const queue of queues) queue.close();
    });
    return queues;
  }

  /** A guest with an open file, reading it all the time. */
  async function startGuest() {
    const memory = new GuestMemory(RUNS);
    closers.push(() => memory.close());
    const queues = queuesOf(memory);
    const { frontEnd, process } = await start();
    const device = new AttachedDevice(frontEnd, {
      features: featureSet(deviceFeature.version1),
      memory: memory.regions,
      rings: queues.map(({ ring }) => ring),
      events: queues.map(({ events }) => events),
    });
    await device.start();
    const session = new FuseSession(memory, queues[1]!, REQUESTS_AT);
    await session.init();
    const node = await session.lookup(await session.lookup(FUSE_ROOT, "d"), "hello");
    const handle = await session.open(node);
    const guest = new ReadingGuest(memory, async () => {
      assert.equal(await session.read(node, handle, 4096), CONTENT);
    });
    closers.push(() => guest.pause());
    await guest.resume();
    return { memory, queues, device, session, node, handle, guest, process };
  }

  type Spoil = (state: Uint8Array) => Uint8Array;

  async function migrate(source: Awaited<ReturnType<typeof startGuest>>, spoil: Spoil | null = null) {
    const heir = new ReceivingGuest();
    closers.push(() => heir.close());
    const { frontEnd } = await start();
    let queues: readonly DriverQueue[] = [];
    const events = () => {
      queues = queuesOf(source.memory);
      return queues.map((queue) => queue.events);
    };
    const destination = new DestinationWithBackEnds(heir, new Map([[NAME, { frontEnd, events }]]), GUEST_RUNS);
    const guest = new SourceWithBackEnds(source.guest, new Map([[NAME, source.device]]), GUEST_RUNS);
    const address = { kind: "unix", path: join(dir, "migration") } as const;
    const peer = await QemuDestinationPeer.listen(address, { channels: 2, handshakeTimeoutMs: 10_000 });
    const terms = { compression: "none", onEvent: () => {}, stallTimeoutMs: 20_000 } as const;
    const taken = runDestination({ ...terms, guest: spoil ? spoilt(destination, spoil) : destination, peer });
    const given = runSource({
      ...terms,
      guest,
      peer: new QemuSourcePeer({ address, channels: 2, connectTimeoutMs: 5000 }),
      level: 1,
      devices: null,
      downtimeLimitMs: 300,
      maxBandwidth: 0,
      roundsMax: 20,
      atRoundLimit: "switchover",
    });
    const [sent, received] = await Promise.allSettled([given, taken]);
    return { sent, received, heir, queues: () => queues, guest };
  }

  it("reads on at the destination with the same node id and file handle", async () => {
    const source = await startGuest();
    const { sent, received, heir, queues } = await migrate(source);
    assert.deepEqual(
      [sent.status, received.status],
      ["fulfilled", "fulfilled"],
      `${reasonOf(sent)} ${reasonOf(received)}`,
    );
    assert.ok(source.guest.reads > 0);
    const memory = new GuestMemory(RUNS, heir.takeDescriptor());
    closers.push(() => memory.close());
    assert.ok(memory.content().equals(source.memory.content()), "RAM arrived as it was stopped");
    const moved = queues().map((queue, at) => queue.moveTo(memory, source.queues[at]!));
    const session = source.session.moveTo(memory, moved[1]!);
    for (let i = 0; i < 50; i++) assert.equal(await session.read(source.node, source.handle, 4096), CONTENT);
  });

  const spoilers: readonly (readonly [what: string, spoil: (state: Uint8Array) => Uint8Array])[] = [
    ["garbage", (state) => Buffer.alloc(state.length, 0x5a)],
    ["nothing", () => Buffer.alloc(0)],
    ["half of it", (state) => state.subarray(0, state.length / 2)],
  ];
  for (const [what, spoil] of spoilers) {
    it(`fails when ${what} arrives as the state, and the source's rings run again`, async () => {
      const source = await startGuest();
      const headBytes = 28 + 2 * 36;
      const { sent, received } = await migrate(source, (bytes) =>
        Buffer.concat([bytes.subarray(0, headBytes), spoil(bytes.subarray(headBytes))]),
      );
      assert.equal(codeOf(received), "VHOST_STATE_CHECK");
      assert.equal(codeOf(sent), "PEER_REFUSED");
      await source.guest.readsMore(20);
    });
  }

  it("fails when the source's back-end dies before it is saved, and the guest goes on without it", async () => {
    const source = await startGuest();
    source.guest.onPause = () => source.process.stop();
    const { sent, guest } = await migrate(source);
    assert.ok(["VHOST_CLOSED", "CHANNEL_BROKEN"].includes(codeOf(sent)), codeOf(sent));
    assert.deepEqual([...guest.lost.keys()], [NAME]);
    assert.equal(source.guest.isPaused, false);
    for (const queue of source.queues) queue.giveUp();
  });
});

/** Does one thing after the other until it is paused. */
class ReadingGuest implements SourceGuest {
  readonly ram: readonly RamSource[];
  readonly tracker: BitmapTracker;
  readonly devices = [];
  reads = 0;
  isPaused = true;
  onPause: () => Promise<void> = async () => {};
  readonly #read: () => Promise<void>;
  #running: Promise<void> = Promise.resolve();
  #failure: unknown = null;

  constructor(memory: GuestMemory, read: () => Promise<void>) {
    const block = describeRamBlock("ram", memory.lengthBytes, 4096)!;
    this.ram = [{ block, descriptor: memory.descriptor, offsetBytes: 0 }];
    this.tracker = new BitmapTracker([memory.written]);
    this.#read = read;
  }

  async pause(): Promise<void> {
    this.isPaused = true;
    await this.#running;
    await this.onPause();
  }

  async resume(): Promise<void> {
    this.isPaused = false;
    this.#running = this.#run();
  }

  async readsMore(reads: number): Promise<void> {
    const due = this.reads + reads;
    while (this.reads < due) {
      if (this.#failure) throw this.#failure;
      await new Promise((resolve) => setImmediate(resolve));
    }
  }

  async #run(): Promise<void> {
    try {
      while (!this.isPaused) {
        await this.#read();
        this.reads++;
      }
    } catch (error) {
      this.#failure = error;
    }
  }
}

/** The same destination, whose device states are spoilt on their way. */
function spoilt(guest: DestinationWithBackEnds, spoil: (state: Uint8Array) => Uint8Array): DestinationGuest {
  return {
    placeRam: (blocks) => guest.placeRam(blocks),
    loadDeviceState: (device, state) => guest.loadDeviceState(device, spoiltState(device, state, spoil)),
    loadDevices: (devices) => guest.loadDevices(devices),
    commit: () => guest.commit(),
    abandon: () => guest.abandon(),
  };
}

async function* spoiltState(
  device: DeviceName,
  state: AsyncIterable<Uint8Array>,
  spoil: (state: Uint8Array) => Uint8Array,
): AsyncGenerator<Uint8Array, void> {
  yield spoil(await collectDeviceState(device, state, 2 ** 20));
}

function reasonOf(settled: PromiseSettledResult<unknown>): string {
  return settled.status === "rejected" ? String(settled.reason) : "";
}

function codeOf(settled: PromiseSettledResult<unknown>): string {
  assert.equal(settled.status, "rejected");
  return (settled as PromiseRejectedResult).reason.code;
}
