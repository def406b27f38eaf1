/** RAM that comes as descriptors or on demand, towards a source of raw bytes. */
import assert from "node:assert/strict";
import { readdirSync } from "node:fs";
import { join } from "node:path";
import { Channel } from "@multifd/channel";
import { receiveBytes, sendBytes, sendDescriptors, setSocketTimeout } from "@multifd/native";
import { ERAS } from "@multifd/protocol";
import type { CloudHypervisorDestinationJob } from "./destination-job.js";
import {
  destinationJob,
  FixtureDestination,
  MAPPINGS,
  MemoryFile,
  makeConfig,
  makeSocketDir,
  type Outcome,
  STATE,
  startDestination,
  threads,
} from "./fixture.js";
import { COMPLETE, config, memory, OK, RawPeer, rangeTable, request, START, state } from "./fixture-raw.js";

const CONFIG = makeConfig();

/** A connection that can pass descriptors; answers are waited for with the thread blocked, which is why nothing long is sent. */
class DescriptorPeer {
  readonly #channel: Channel;

  constructor(channel: Channel) {
    this.#channel = channel;
    setSocketTimeout(channel.descriptor, 5000);
  }

  send(...parts: readonly Uint8Array[]): void {
    sendBytes(this.#channel.descriptor, Buffer.concat(parts));
  }

  sendSlot(slot: Uint8Array, descriptors: readonly number[]): void {
    this.send(request(7, slot.length));
    sendDescriptors(this.#channel.descriptor, slot, descriptors);
  }

  /** The next answer's status, once the destination had time to give it. */
  async status(): Promise<number | null> {
    const { pollReadable } = await import("@multifd/native");
    await pollReadable([this.#channel.descriptor], 5000);
    const response = Buffer.alloc(16);
    return receiveBytes(this.#channel.descriptor, response) < 16 ? null : response.readUInt16LE(0);
  }

  async say(...parts: readonly Uint8Array[]): Promise<void> {
    this.send(...parts);
    assert.equal(await this.status(), 1);
  }

  close(): void {
    this.#channel.close();
  }
}

function slot32(slot: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(slot);
  return bytes;
}

describe("RAM by descriptor, towards raw bytes", () => {
  const directory = makeSocketDir();
  const socketPath = join(directory.path, "in.sock");
  let guest: FixtureDestination;
  let peer: DescriptorPeer;
  let files: MemoryFile[];
  let outcome: Promise<Outcome>;
  beforeEach(() => {
    guest = new FixtureDestination();
    files = MAPPINGS.map(({ bytes }) => new MemoryFile(bytes));
  });
  afterEach(() => {
    peer.close();
    guest.close();
    for (const file of files) file.close();
  });
  after(async () => {
    await threads.end();
    directory.drop();
  });

  async function open(more: Partial<CloudHypervisorDestinationJob> = {}): Promise<void> {
    ({ outcome } = await startDestination(destinationJob(guest, socketPath, more)));
    peer = new DescriptorPeer(await Channel.connect({ kind: "unix", path: socketPath }, 5000));
    await peer.say(START);
  }

  async function sendFiles(width: 2 | 4 = 4): Promise<void> {
    for (const [index, { slot }] of [...MAPPINGS.entries()].reverse()) {
      peer.sendSlot(slot32(slot).subarray(0, width), [files[index]!.descriptor]);
      assert.equal(await peer.status(), 1);
    }
  }

  async function refused(): Promise<string> {
    assert.equal(await peer.status(), 2);
    peer.close();
    const result = await outcome;
    assert.ok(!result.ok);
    assert.equal(guest.calls.at(-1), "abandon");
    return result.code;
  }

  it("takes slots in any order, answers each, and maps them by Config", async () => {
    await open({ era: ERAS.v21 });
    await sendFiles();
    await peer.say(config(CONFIG));
    await peer.say(state(STATE));
    await peer.say(COMPLETE);
    assert.deepEqual(await outcome, { ok: true, acknowledged: true });
    assert.deepEqual(
      guest.adopted.map(({ slot, block }) => [slot, block.lengthBytes]),
      MAPPINGS.map(({ slot, bytes }) => [slot, bytes]),
    );
    assert.deepEqual(guest.calls, ["config", "adopt", "state", "commit resume"]);
  });

  it("takes them behind Config with 16-bit slots where it is told to, and RAM over the stream as well", async () => {
    await open({ lenientDescriptors: true });
    await peer.say(config(CONFIG));
    await sendFiles(2);
    await peer.say(state(STATE));
    await peer.say(COMPLETE);
    assert.deepEqual(await outcome, { ok: true, acknowledged: true });
    assert.equal(guest.adopted.length, MAPPINGS.length);
    peer.close();
    guest.close();
    guest.calls.length = 0;
    await open({ lenientDescriptors: true });
    await peer.say(config(CONFIG));
    await peer.say(memory([0, 4096, 7]));
    await peer.say(state(STATE));
    await peer.say(COMPLETE);
    assert.deepEqual(await outcome, { ok: true, acknowledged: true });
    assert.equal(guest.content()[0]![4095], 7);
  });

  it("refuses 16-bit slots, two descriptors, none, a slot twice, and closes what came", async () => {
    const descriptor = () => files[0]!.descriptor;
    const wrong: readonly (readonly [code: string, send: () => Promise<void>])[] = [
      ["MEMORY_FD_LENGTH", async () => peer.sendSlot(slot32(0).subarray(0, 2), [descriptor()])],
      ["MEMORY_FD_COUNT", async () => peer.sendSlot(slot32(0), [descriptor(), descriptor()])],
      ["MEMORY_FD_COUNT", async () => peer.sendSlot(slot32(0), [])],
      [
        "MEMORY_FD_SLOT",
        async () => {
          peer.sendSlot(slot32(0), [descriptor()]);
          assert.equal(await peer.status(), 1);
          peer.sendSlot(slot32(0), [descriptor()]);
        },
      ],
    ];
    await open();
    peer.close();
    await outcome;
    const before = readdirSync("/proc/self/fd").length;
    for (const [code, send] of wrong) {
      await open();
      await send();
      assert.equal(await refused(), code);
      assert.equal(readdirSync("/proc/self/fd").length, before, code);
    }
  });

  for (const [what, give] of [
    ["a slot is missing", (to: DescriptorPeer, fds: readonly number[]) => to.sendSlot(slot32(0), [fds[0]!])],
    [
      "a slot is not the configuration's",
      (to: DescriptorPeer, fds: readonly number[]) => to.sendSlot(slot32(9), [fds[0]!]),
    ],
  ] as const) {
    it(`answers State with Error when ${what}`, async () => {
      await open();
      give(
        peer,
        files.map((file) => file.descriptor),
      );
      assert.equal(await peer.status(), 1);
      await peer.say(config(CONFIG));
      peer.send(state(STATE));
      assert.equal(await refused(), "MEMORY_FD_SLOT");
    });
  }

  it("refuses a file that is shorter than its mapping, and memory behind descriptors", async () => {
    files[0]!.close();
    files[0] = new MemoryFile(4096);
    await open();
    await sendFiles();
    await peer.say(config(CONFIG));
    peer.send(state(STATE));
    assert.equal(await refused(), "MEMORY_FD_SIZE");
    await open();
    await sendFiles();
    await peer.say(config(CONFIG));
    peer.send(memory([0, 4096, 1]));
    assert.equal(await refused(), "COMMAND_OUT_OF_ORDER");
  });
});

describe("RAM on demand, towards a source of raw bytes", () => {
  const directory = makeSocketDir();
  const socketPath = join(directory.path, "in.sock");
  let guest: FixtureDestination;
  beforeEach(() => {
    guest = new FixtureDestination();
  });
  afterEach(() => guest.close());
  after(async () => {
    await threads.end();
    directory.drop();
  });

  async function open(more: Partial<CloudHypervisorDestinationJob> = {}) {
    const { outcome } = await startDestination(destinationJob(guest, socketPath, { memory: "on-demand", ...more }));
    const peer = await RawPeer.connect(socketPath);
    for (const message of [START, config(CONFIG)]) {
      peer.write(message);
      assert.equal(await peer.status(), 1);
    }
    return { peer, outcome };
  }

  async function openFaults() {
    const { peer, outcome } = await open();
    const faults = await RawPeer.connect(socketPath);
    faults.write(Buffer.from("0200", "hex"));
    peer.write(state(STATE));
    assert.equal(await peer.status(), 1);
    peer.write(COMPLETE);
    return { peer, faults, outcome };
  }

  it("asks for every page once, byte for byte as the protocol has it, and answers Complete when all are in", async () => {
    const { peer, faults, outcome } = await openFaults();
    let asked = 0;
    for (;;) {
      const fault = await faults.take(32);
      if (fault.length === 0) break;
      assert.equal(fault.subarray(0, 16).toString("hex"), "09000000000000001000000000000000");
      const length = Number(fault.readBigUInt64LE(24));
      asked += length;
      const answer = Buffer.from(OK);
      answer.writeBigUInt64LE(BigInt(length), 8);
      faults.write(answer, Buffer.alloc(length, 0x5a));
    }
    assert.equal(
      asked,
      MAPPINGS.reduce((sum, { bytes }) => sum + bytes, 0),
    );
    faults.end();
    assert.equal(await peer.status(), 1);
    assert.deepEqual(await outcome, { ok: true, acknowledged: true });
    for (const content of guest.content()) assert.ok(content.every((byte) => byte === 0x5a));
  });

  for (const [what, answer, code] of [
    ["Error", Buffer.from("02000000000000000000000000000000", "hex"), "PEER_REFUSED"],
    ["fewer bytes", Buffer.from("01000000000000000010000000000000", "hex"), "PAGE_FAULT_ANSWER"],
    ["nothing, and closes", Buffer.alloc(0), "CHANNEL_CUT"],
  ] as const) {
    it(`gives everything back when a fault is answered with ${what}`, async () => {
      const { peer, faults, outcome } = await openFaults();
      await faults.take(32);
      faults.write(answer);
      if (answer.length === 0) faults.end();
      if (code !== "CHANNEL_CUT") assert.equal(await peer.status(), 2);
      peer.close();
      const result = await outcome;
      assert.equal(!result.ok && result.code, code);
      assert.equal(guest.calls.at(-1), "abandon");
    });
  }

  it("answers Memory with Error, and State when no fault channel has come", async () => {
    const first = await open();
    first.peer.write(request(4, 16), rangeTable([0, 1]), Buffer.alloc(1));
    assert.equal(await first.peer.status(), 2);
    first.peer.close();
    const refused = await first.outcome;
    assert.equal(!refused.ok && refused.code, "COMMAND_OUT_OF_ORDER");
    const second = await open({ handshakeTimeoutMs: 50 });
    second.peer.write(state(STATE));
    assert.equal(await second.peer.status(), 2);
    second.peer.close();
    const missing = await second.outcome;
    assert.equal(!missing.ok && missing.code, "FAULT_CHANNEL_MISSING");
  });
});
