/**
 * Violations: a back-end that breaks each rule for the front-end, and a front-end that breaks each for the back-end.
 *
 * Every one of them is one clear error, and leaves no descriptor behind.
 */

import assert from "node:assert/strict";
import {
  closeDescriptor,
  createEvent,
  createMemfd,
  receiveDescriptors,
  sendDescriptors,
  socketPair,
} from "@multifd/native";
import { filesLeftOpen, type OpenFiles, openFiles } from "@multifd/native/fixture-open-files";
import { ChannelError, MigrationError } from "@multifd/protocol";
import type { BackEndDevice } from "./back-end-device.js";
import { deviceFeature, featureSet, protocolFeature } from "./features.js";
import { FixtureGuest, serveDevice } from "./fixture.js";
import { FrontEnd } from "./front-end.js";
import { MessageSocket, type VhostUserMessage } from "./message-socket.js";
import {
  decodeNumber,
  encodeNumber,
  encodeVhostUserMessage,
  logDescription,
  memoryRegion,
  memoryTableHead,
  type RequestName,
  VHOST_USER_PAYLOAD_MAX,
  vhostUserHeader,
  vhostUserRequests,
  vringAddress,
  vringState,
} from "./messages.js";
import { RngDevice } from "./rng-device.js";
import { loadState, saveState } from "./state-transfer.js";

const OFFERED = featureSet(deviceFeature.logAll, deviceFeature.protocolFeatures, deviceFeature.version1);
const PROTOCOL = featureSet(
  protocolFeature.queues,
  protocolFeature.logSharedMemory,
  protocolFeature.replyAck,
  protocolFeature.config,
  protocolFeature.inflight,
  protocolFeature.memorySlots,
  protocolFeature.deviceState,
);
const REPLY_FLAGS = 5;
const REPLY_TIMEOUT_MS = 300;

type Answer = { readonly wire: Uint8Array; readonly descriptors?: readonly number[] } | "silence" | "close" | null;
/** What a scripted back-end answers a request with; null leaves the honest answer. */
type Script = (request: VhostUserMessage) => Answer;

function wire(id: number, flags: number, payload: Uint8Array): Uint8Array {
  return Buffer.concat([vhostUserHeader.encode({ id, flags, bytes: payload.length }), payload]);
}

function numberReply(id: number, value: bigint): Uint8Array {
  return wire(id, REPLY_FLAGS, encodeNumber(value));
}

/** Answers requests, honestly but for what the script says, until the front-end goes. */
function scriptedBackEnd(script: Script): { readonly socket: number; readonly ended: Promise<void> } {
  const [ours, theirs] = socketPair();
  const socket = new MessageSocket(theirs, "scripted back-end");
  const serve = async () => {
    for (;;) {
      const request = await socket.receive(Number.POSITIVE_INFINITY, "serving");
      if (request === null) return;
      const answer = script(request);
      for (const descriptor of request.descriptors) closeDescriptor(descriptor);
      if (answer === "close") return;
      if (answer === "silence") continue;
      const honest = answer ?? honestAnswer(request);
      if (honest === null) continue;
      socket.send(honest.wire, honest.descriptors ?? []);
      for (const descriptor of honest.descriptors ?? []) closeDescriptor(descriptor);
    }
  };
  const ended = serve()
    .catch((error: unknown) => assert.ok(error instanceof ChannelError, String(error)))
    .finally(() => socket.close());
  return { socket: ours, ended };
}

function honestAnswer({ id, needsReply }: VhostUserMessage): Exclude<Answer, string> {
  if (id === vhostUserRequests.GET_FEATURES.id) return { wire: numberReply(id, OFFERED) };
  if (id === vhostUserRequests.GET_PROTOCOL_FEATURES.id) return { wire: numberReply(id, PROTOCOL) };
  return needsReply ? { wire: numberReply(id, 0n) } : null;
}

function on(name: RequestName, answer: (id: number) => Answer): Script {
  const { id } = vhostUserRequests[name];
  return (request) => (request.id === id ? answer(id) : null);
}

describe("a back-end that breaks the protocol", () => {
  let before: OpenFiles;
  beforeEach(() => {
    before = openFiles();
  });
  afterEach(async () => assert.deepEqual(await filesLeftOpen(before), [], "no descriptor is left"));

  /** Runs `act` against the script; asserts its error, and that the front-end fails alike ever after. */
  async function assertBroken(
    script: Script,
    act: (frontEnd: FrontEnd) => Promise<unknown>,
    code: string,
    says: RegExp,
    staysOpen = false,
  ): Promise<void> {
    const { socket, ended } = scriptedBackEnd(script);
    const failed = (error: unknown) => {
      assert.ok(error instanceof MigrationError, `${error}`);
      assert.equal(error.code, code, error.message);
      assert.match(error.message, says);
      return true;
    };
    let frontEnd: FrontEnd | null = null;
    try {
      frontEnd = await FrontEnd.over(socket, "back-end", { replyTimeoutMs: REPLY_TIMEOUT_MS });
    } catch (error) {
      failed(error);
    }
    if (frontEnd) {
      await assert.rejects(act(frontEnd), failed);
      assert.equal(frontEnd.isOpen, staysOpen);
      if (!staysOpen) await assert.rejects(frontEnd.setFeatures(OFFERED), failed);
      frontEnd.close();
    }
    await ended;
  }

  const count = (frontEnd: FrontEnd) => frontEnd.queueCount();
  const save = async (frontEnd: FrontEnd) => {
    for await (const _ of saveState(frontEnd, { stallTimeoutMs: REPLY_TIMEOUT_MS, bytesMax: 1000 })) assert.ok(_);
  };
  const descriptors = (howMany: number) => Array.from({ length: howMany }, () => createEvent());

  const replies: readonly (readonly [
    what: string,
    script: Script,
    act: (frontEnd: FrontEnd) => Promise<unknown>,
    code: string,
    says: RegExp,
  ])[] = [
    [
      "answers another request",
      on("GET_QUEUE_NUM", () => ({ wire: numberReply(36, 1n) })),
      count,
      "VHOST_REPLY",
      /GET_QUEUE_NUM.*number 36.*17 was due/,
    ],
    [
      "sends a request for an answer",
      on("GET_QUEUE_NUM", (id) => ({ wire: wire(id, 1, Buffer.alloc(8)) })),
      count,
      "VHOST_REPLY",
      /a request of number 17/,
    ],
    [
      "speaks another version",
      on("GET_QUEUE_NUM", (id) => ({ wire: wire(id, 6, Buffer.alloc(8)) })),
      count,
      "VHOST_VERSION",
      /flags 0x6/,
    ],
    [
      "answers too shortly",
      on("GET_QUEUE_NUM", (id) => ({ wire: wire(id, REPLY_FLAGS, Buffer.alloc(4)) })),
      count,
      "VHOST_SIZE",
      /4 bytes came, 8/,
    ],
    [
      "answers at too great length",
      on("GET_QUEUE_NUM", (id) => ({ wire: wire(id, REPLY_FLAGS, Buffer.alloc(12)) })),
      count,
      "VHOST_SIZE",
      /12 bytes came, 8/,
    ],
    [
      "announces more than there is room for",
      on("GET_QUEUE_NUM", (id) => ({ wire: vhostUserHeader.encode({ id, flags: REPLY_FLAGS, bytes: 0xffff_ffff }) })),
      count,
      "VHOST_SIZE",
      /4294967295 bytes/,
    ],
    [
      "passes descriptors that nobody asked for",
      on("GET_QUEUE_NUM", (id) => ({ wire: numberReply(id, 1n), descriptors: descriptors(3) })),
      count,
      "VHOST_DESCRIPTORS",
      /3 descriptors came with the reply, 0 were due/,
    ],
    [
      "says nothing",
      on("GET_QUEUE_NUM", () => "silence"),
      count,
      "VHOST_TIMEOUT",
      /waiting for the reply to GET_QUEUE_NUM/,
    ],
    [
      "stops in the middle of its answer",
      on("GET_QUEUE_NUM", (id) => ({ wire: numberReply(id, 1n).subarray(0, 15) })),
      count,
      "VHOST_TIMEOUT",
      /nothing came/,
    ],
    ["closes instead of answering", on("GET_QUEUE_NUM", () => "close"), count, "VHOST_CLOSED", /GET_QUEUE_NUM/],
    ["dies at its first request", on("GET_FEATURES", () => "close"), count, "VHOST_CLOSED", /GET_FEATURES/],
    [
      "dies while it is negotiated with",
      on("SET_PROTOCOL_FEATURES", () => "close"),
      (f) => f.setFeatures(0n),
      "VHOST_CLOSED",
      /./,
    ],
    ["dies when it is owned", on("SET_OWNER", () => "close"), count, "VHOST_CLOSED", /SET_OWNER/],
    [
      "tells the base of another ring",
      on("GET_VRING_BASE", (id) => ({ wire: wire(id, REPLY_FLAGS, vringState.encode({ index: 1, value: 3 })) })),
      (f) => f.rings.takeBase(0),
      "VHOST_RING_INDEX",
      /ring 1 came, that of ring 0/,
    ],
    [
      "dies when a ring is stopped",
      on("GET_VRING_BASE", () => "close"),
      (f) => f.rings.takeBase(0),
      "VHOST_CLOSED",
      /GET_VRING_BASE/,
    ],
    [
      "refuses a state by its status",
      on("SET_DEVICE_STATE_FD", (id) => ({ wire: numberReply(id, 0x101n) })),
      save,
      "VHOST_STATE_REFUSED",
      /0x101 and 0 descriptors/,
    ],
    [
      "promises a descriptor for its state and passes none",
      on("SET_DEVICE_STATE_FD", (id) => ({ wire: numberReply(id, 0n) })),
      save,
      "VHOST_STATE_REFUSED",
      /0x0 and 0 descriptors/,
    ],
    [
      "refuses a state and passes a descriptor",
      on("SET_DEVICE_STATE_FD", (id) => ({ wire: numberReply(id, 0x101n), descriptors: descriptors(1) })),
      save,
      "VHOST_STATE_REFUSED",
      /0x101 and 1 descriptors/,
    ],
    [
      "passes two descriptors for its state",
      on("SET_DEVICE_STATE_FD", (id) => ({ wire: numberReply(id, 0n), descriptors: descriptors(2) })),
      save,
      "VHOST_DESCRIPTORS",
      /2 descriptors came with the reply, 0 to 1/,
    ],
    [
      "wants its state moved through a file",
      on("SET_DEVICE_STATE_FD", (id) => ({ wire: numberReply(id, 0n), descriptors: [createMemfd("state", 4096)] })),
      save,
      "VHOST_STATE_DESCRIPTOR",
      /neither a pipe nor a socket/,
    ],
    [
      "dies when its state is asked for",
      on("SET_DEVICE_STATE_FD", () => "close"),
      save,
      "VHOST_CLOSED",
      /SET_DEVICE_STATE_FD/,
    ],
    [
      "dies when it is asked for its verdict",
      (request) => {
        if (request.id === vhostUserRequests.SET_DEVICE_STATE_FD.id) return { wire: numberReply(request.id, 0x100n) };
        return request.id === vhostUserRequests.CHECK_DEVICE_STATE.id ? "close" : null;
      },
      save,
      "VHOST_CLOSED",
      /CHECK_DEVICE_STATE/,
    ],
    [
      "tells more configuration than was asked for",
      on("GET_CONFIG", (id) => ({ wire: wire(id, REPLY_FLAGS, Buffer.concat([u32s(0, 8, 0), Buffer.alloc(8)])) })),
      (f) => f.config(0, 4),
      "VHOST_CONFIG",
      /8 bytes of configuration came, 4/,
    ],
    [
      "tells of no configuration, which is its error",
      on("GET_CONFIG", (id) => ({ wire: wire(id, REPLY_FLAGS, u32s(0, 0, 0)) })),
      (f) => f.config(0, 4),
      "VHOST_CONFIG",
      /0 bytes/,
    ],
    [
      "refuses by acknowledgement",
      on("SET_FEATURES", (id) => ({ wire: numberReply(id, 1n) })),
      (f) => f.setFeatures(OFFERED),
      "VHOST_REFUSED",
      /refuses SET_FEATURES with 0x1/,
    ],
  ];
  const KEEP_OPEN = [
    "VHOST_REFUSED",
    "VHOST_CONFIG",
    "VHOST_RING_INDEX",
    "VHOST_STATE_REFUSED",
    "VHOST_STATE_DESCRIPTOR",
  ];
  for (const [what, script, act, code, says] of replies) {
    it(`that ${what} is one error`, () => assertBroken(script, act, code, says, KEEP_OPEN.includes(code)));
  }

  it("that answers too late is one error, and its answer is nobody's", async () => {
    const { id } = vhostUserRequests.GET_QUEUE_NUM;
    const [ours, theirs] = socketPair();
    const frontEnd = FrontEnd.over(ours, "back-end", { replyTimeoutMs: REPLY_TIMEOUT_MS });
    const back = new MessageSocket(theirs, "late back-end");
    const serving = (async () => {
      for (let asked = false; !asked; ) {
        const request = await back.receive(Number.POSITIVE_INFINITY, "serving");
        if (request?.id === id) asked = true;
        else if (request) {
          const honest = honestAnswer(request);
          if (honest) back.send(honest.wire, []);
        }
      }
    })();
    const connected = await frontEnd;
    await assert.rejects(connected.queueCount(), { code: "VHOST_TIMEOUT" });
    await serving;
    assert.throws(() => back.send(numberReply(id, 7n), []), { code: "VHOST_CLOSED" });
    await assert.rejects(connected.queueCount(), { code: "VHOST_TIMEOUT" });
    back.close();
    connected.close();
  });

  it("that neither reads its state nor goes on is given up in time", async () => {
    const kept: number[] = [];
    const { id } = vhostUserRequests.SET_DEVICE_STATE_FD;
    const [ours, theirs] = socketPair();
    const back = new MessageSocket(theirs, "stuck back-end");
    const serving = (async () => {
      for (;;) {
        const request = await back.receive(Number.POSITIVE_INFINITY, "serving");
        if (request === null) return;
        kept.push(...request.descriptors);
        const answer = request.id === id ? { wire: numberReply(id, 0x100n) } : honestAnswer(request);
        if (answer) back.send(answer.wire, []);
      }
    })();
    const frontEnd = await FrontEnd.over(ours, "back-end", { replyTimeoutMs: REPLY_TIMEOUT_MS });
    const terms = { stallTimeoutMs: 100, bytesMax: 2 ** 20 };
    await assert.rejects(loadState(frontEnd, [Buffer.alloc(2 ** 20)], terms), { code: "VHOST_STATE_STALLED" });
    await assert.rejects(saveState(frontEnd, terms).next(), { code: "VHOST_STATE_STALLED" });
    frontEnd.close();
    await serving;
    back.close();
    for (const descriptor of kept) closeDescriptor(descriptor);
  });

  it("means Xen by bit 17, unless we are told that it means state", async () => {
    const seen: bigint[] = [];
    const ids: number[] = [];
    const theirs = featureSet(protocolFeature.replyAck, protocolFeature.deviceState2023, 20, 21);
    const script: Script = ({ id, payload }) => {
      ids.push(id);
      if (id === vhostUserRequests.GET_PROTOCOL_FEATURES.id) return { wire: numberReply(id, theirs) };
      if (id === vhostUserRequests.SET_PROTOCOL_FEATURES.id) seen.push(decodeNumber(payload));
      return id === 42 ? { wire: numberReply(id, 0n) } : null;
    };
    for (const deviceState2023 of [false, true]) {
      const { socket, ended } = scriptedBackEnd(script);
      const frontEnd = await FrontEnd.over(socket, "back-end", { replyTimeoutMs: REPLY_TIMEOUT_MS, deviceState2023 });
      assert.equal(frontEnd.movesState, deviceState2023);
      if (deviceState2023) await frontEnd.checkState();
      frontEnd.close();
      await ended;
    }
    const acknowledged = featureSet(protocolFeature.replyAck);
    assert.deepEqual(seen, [acknowledged, acknowledged | featureSet(protocolFeature.deviceState2023)]);
    assert.deepEqual(ids.at(-1), 42, "CHECK was 42 then");
  });
});

describe("a front-end that breaks the protocol", () => {
  let before: OpenFiles;
  let guest: FixtureGuest;
  beforeEach(() => {
    before = openFiles();
    guest = new FixtureGuest();
  });
  afterEach(async () => {
    guest.close();
    assert.deepEqual(await filesLeftOpen(before), [], "no descriptor is left");
  });

  const request = (name: RequestName, payload: Uint8Array = new Uint8Array(0)) =>
    encodeVhostUserMessage(vhostUserRequests[name].id, "request", payload);
  const table = (region: Partial<Parameters<typeof memoryRegion.encode>[0]>, regions = 1) => {
    const told = { guestAddress: 0x10_0000, lengthBytes: 4096, userAddress: 0x10_0000, offsetBytes: 0, ...region };
    return Buffer.concat([memoryTableHead.encode({ regions }), memoryRegion.encode(told)]);
  };

  const breaches: readonly (readonly [
    what: string,
    wire: () => Uint8Array,
    descriptors: (guest: FixtureGuest) => readonly number[],
    code: string,
  ])[] = [
    ["an unknown request", () => wire(200, 1, new Uint8Array(0)), () => [], "VHOST_REQUEST"],
    ["a reply nobody waits for", () => numberReply(1, 0n), () => [], "VHOST_REQUEST"],
    ["another version", () => wire(1, 2, new Uint8Array(0)), () => [], "VHOST_VERSION"],
    ["a payload where there is none", () => request("GET_FEATURES", Buffer.alloc(1)), () => [], "VHOST_SIZE"],
    ["a payload too short", () => request("SET_FEATURES", Buffer.alloc(7)), () => [], "VHOST_SIZE"],
    [
      "a payload without end",
      () => vhostUserHeader.encode({ id: 2, flags: 1, bytes: VHOST_USER_PAYLOAD_MAX + 1 }),
      () => [],
      "VHOST_SIZE",
    ],
    ["surplus descriptors", () => request("GET_FEATURES"), ({ kick }) => [kick, kick, kick], "VHOST_DESCRIPTORS"],
    ["a missing descriptor", () => request("SET_MEM_TABLE", table({})), () => [], "VHOST_MEMORY"],
    ["a kick against what it says", () => request("SET_VRING_KICK", Buffer.alloc(8)), () => [], "VHOST_DESCRIPTORS"],
    [
      "features that are not offered",
      () => request("SET_FEATURES", Buffer.alloc(8, 0xff)),
      () => [],
      "VHOST_NOT_OFFERED",
    ],
    ["a ring that is not there", () => request("SET_VRING_NUM", u32s(7, 8)), () => [], "VHOST_RING_INDEX"],
    ["a ring of no size", () => request("SET_VRING_NUM", u32s(0, 3)), () => [], "VHOST_RING"],
    [
      "a table longer than it is",
      () => request("SET_MEM_TABLE", table({}, 2)),
      ({ descriptor }) => [descriptor, descriptor],
      "VHOST_MEMORY",
    ],
    [
      "memory that its file does not have",
      () => request("SET_MEM_TABLE", table({ lengthBytes: 2 ** 40 })),
      ({ descriptor }) => [descriptor],
      "VHOST_MEMORY",
    ],
    [
      "memory of no size",
      () => request("SET_MEM_TABLE", table({ lengthBytes: 0 })),
      ({ descriptor }) => [descriptor],
      "VHOST_MEMORY",
    ],
    [
      "memory between pages",
      () => request("SET_MEM_TABLE", table({ guestAddress: 0x10_0001 })),
      ({ descriptor }) => [descriptor],
      "VHOST_MEMORY",
    ],
    ["an event as its memory", () => request("SET_MEM_TABLE", table({})), ({ kick }) => [kick], "VHOST_MEMORY"],
    [
      "rings outside memory",
      () =>
        request(
          "SET_VRING_ADDR",
          vringAddress.encode({
            index: 0,
            flags: 0,
            descriptors: 0x10_0000,
            used: 0x10_1000,
            available: 0x10_2000,
            logAddress: 0,
          }),
        ),
      () => [],
      "VHOST_MEMORY",
    ],
    [
      "rings askew",
      () =>
        request(
          "SET_VRING_ADDR",
          vringAddress.encode({ index: 0, flags: 0, descriptors: 8, used: 4, available: 2, logAddress: 0 }),
        ),
      () => [],
      "VHOST_RING",
    ],
    [
      "a log that its file does not have",
      () => request("SET_LOG_BASE", logDescription.encode({ lengthBytes: 2 ** 30, offsetBytes: 0 })),
      ({ descriptor }) => [descriptor],
      "VHOST_MEMORY",
    ],
    ["an announcement that is not offered", () => request("SEND_RARP", Buffer.alloc(8)), () => [], "VHOST_NOT_OFFERED"],
  ];
  for (const [what, wire, descriptors, code] of breaches) {
    it(`sends ${what}, and is dropped for it`, async () => {
      const served = serveDevice(new RngDevice());
      sendDescriptors(served.socket, wire(), descriptors(guest));
      const error = await served.ended;
      assert.ok(error instanceof MigrationError, `${error}`);
      assert.equal(error.code, code, error.message);
      assert.equal(receiveDescriptors(served.socket, new Uint8Array(64), 8).bytes, 0, "and the connection is closed");
      closeDescriptor(served.socket);
    });
  }

  it("goes in the middle of a message, and is dropped for it", async () => {
    const served = serveDevice(new RngDevice());
    sendDescriptors(served.socket, request("SET_MEM_TABLE", table({})).subarray(0, 20), [guest.descriptor]);
    closeDescriptor(served.socket);
    assert.equal(((await served.ended) as MigrationError).code, "VHOST_CLOSED");
  });

  it("asks for an acknowledgement, and is refused by it where the connection can go on", async () => {
    const served = serveDevice(new RngDevice());
    const front = new MessageSocket(served.socket, "back-end");
    const protocol = encodeNumber(featureSet(protocolFeature.replyAck));
    front.send(request("SET_PROTOCOL_FEATURES", protocol), []);
    const { id } = vhostUserRequests.SET_VRING_NUM;
    front.send(encodeVhostUserMessage(id, "acknowledged-request", u32s(0, 3)), []);
    const reply = await front.receive(performance.now() + 5000, "waiting");
    assert.deepEqual(
      [reply?.id, reply?.isReply, Buffer.from(reply!.payload).toString("hex")],
      [id, true, "0100000000000000"],
    );
    front.close();
    assert.equal(await served.ended, null);
  });

  const stateful: BackEndDevice = {
    features: 0n,
    queues: 1,
    serve: () => {},
    saveState: () => [],
    loadState: () => {},
  };
  it("asks for a state in a phase or direction that is none, and is refused", async () => {
    const served = serveDevice(stateful);
    const front = new MessageSocket(served.socket, "back-end");
    const { id } = vhostUserRequests.SET_DEVICE_STATE_FD;
    for (const words of [u32s(0, 1), u32s(2, 0)]) {
      front.send(encodeVhostUserMessage(id, "request", words), [guest.kick]);
      const reply = await front.receive(performance.now() + 5000, "waiting");
      assert.deepEqual([reply?.id, Buffer.from(reply!.payload).toString("hex")], [id, "0101000000000000"]);
    }
    front.close();
    assert.equal(await served.ended, null);
  });
});

function u32s(...values: readonly number[]): Buffer {
  const bytes = Buffer.alloc(4 * values.length);
  for (const [at, value] of values.entries()) bytes.writeUInt32LE(value, 4 * at);
  return bytes;
}
