/** Hellos that make no sense, come uninvited or do not come: both ends say so, and the guest stays at the source. */
import assert from "node:assert/strict";
import { once } from "node:events";
import { readdirSync } from "node:fs";
import { connect } from "node:net";
import { join } from "node:path";
import { runSource } from "@multifd/engine";
import { QemuSourcePeer } from "@multifd/peer-qemu";
import {
  type Compression,
  encodeCommand,
  encodeConfiguration,
  encodeFileHeader,
  encodeHello,
  encodeHelloAnswer,
  encodeMultifdInit,
  encodePong,
  encodeRamStart,
  HELLO_PING,
} from "@multifd/protocol";
import { startReceiver } from "../e2e/receiver.js";
import { startRelay } from "../e2e/relaying.js";
import { createScratchDir, removeScratchDir } from "../peers/index.js";
import { ownError } from "./refusal.js";
import { startScriptedDestination } from "./scripted-destination.js";
import { WatchedGuest } from "./watched-guest.js";

const BYTES = 4 * 2 ** 20;
const RETURN_HELLO = 0x4d46;

/** A message of the return path, or behind a byte of 08 a command, with any body. */
function message(type: number, body: Uint8Array, lengthBytes = body.length): Buffer {
  const head = Buffer.alloc(4);
  head.writeUInt16BE(type, 0);
  head.writeUInt16BE(lengthBytes, 2);
  return Buffer.concat([head, body]);
}

const hello = encodeHello({ methods: ["none", "lz4"] });
const otherVersion = Buffer.from(hello);
otherVersion.writeUInt16BE(9, 4);
const spoilt: readonly (readonly [what: string, code: string, body: Uint8Array, lengthBytes?: number])[] = [
  ["nonsense", "HELLO_MAGIC", Buffer.from("what a fine day it is")],
  ["of another version", "HELLO_VERSION", otherVersion],
  ["that is no map", "HELLO_FORM", Buffer.concat([hello.subarray(0, 6), Uint8Array.of(0xdd, 0xff, 0xff, 0xff, 0xff)])],
  ["with nothing in it", "WIRE_TRUNCATED", Buffer.alloc(0)],
  ["longer than any", "HELLO_SIZE", hello, 65535],
  ["of methods that nobody has", "HELLO_METHODS", encodeHello({ methods: [] })],
];

describe("hellos that go wrong", () => {
  let dir: string;
  const path = (name: string) => join(dir, name);
  beforeEach(() => {
    dir = createScratchDir();
  });
  afterEach(() => removeScratchDir(dir));

  /** A live guest, migrated to whoever answers the first PING like this, until that fails. */
  const sendTo = async (answerPing: Uint8Array, compression: Compression = "lz4", connectTimeoutMs = 5000) => {
    const guest = new WatchedGuest({ bytes: BYTES });
    const { address, close } = await startScriptedDestination(path("socket"), { answerPing });
    try {
      const error = await runSource({
        guest,
        peer: new QemuSourcePeer({ address, channels: 2, connectTimeoutMs, compression }),
        onEvent: () => {},
        compression,
        level: 1,
        devices: null,
        downtimeLimitMs: 10_000,
        maxBandwidth: 0,
        roundsMax: 50,
        atRoundLimit: "switchover",
        stallTimeoutMs: 10_000,
      }).then(() => assert.fail("the migration went well"), ownError);
      assert.deepEqual([guest.calls, guest.isRunning], [[], true], "the guest never noticed");
      return error;
    } finally {
      guest.close();
      await close();
    }
  };

  for (const [what, code, body, lengthBytes] of spoilt) {
    it(`refuses a destination's hello ${what}`, async () => {
      const error = await sendTo(message(RETURN_HELLO, body, lengthBytes));
      assert.equal(error.code, code, error.message);
    });
  }

  it("refuses a destination's hello that nobody asked for, and a second one", async () => {
    const uninvited = encodeHelloAnswer({ methods: ["none", "lz4"] });
    assert.equal((await sendTo(uninvited, "none")).code, "HELLO_UNEXPECTED");
    assert.equal((await sendTo(Buffer.concat([uninvited, uninvited]))).code, "HELLO_UNEXPECTED");
  });

  it("refuses a destination's hello that comes behind its PONG: that one was a QEMU's answer", async () => {
    const late = Buffer.concat([encodePong(HELLO_PING), encodeHelloAnswer({ methods: ["none", "lz4"] })]);
    assert.match((await sendTo(late)).code, /^(HELLO_UNEXPECTED|LZ4_WITHOUT_HELLO)$/);
  });

  it("says which method is missing where the destination's hello has no lz4, and where there is no hello", async () => {
    assert.equal((await sendTo(encodeHelloAnswer({ methods: ["none", "zstd"] }))).code, "LZ4_WITHOUT_HELLO");
    assert.equal((await sendTo(encodePong(HELLO_PING))).code, "LZ4_WITHOUT_HELLO");
  });

  it("gives up on a destination that never answers", async () => {
    assert.equal((await sendTo(encodePong(1), "lz4", 200)).code, "HELLO_TIMEOUT");
  });

  /** What a source says up to its hello; `asks` for one. */
  const opening = (asks: boolean) => [
    encodeFileHeader(),
    encodeConfiguration({ machineType: "none" }),
    encodeCommand({ name: "open-return-path" }),
    ...(asks ? [encodeCommand({ name: "ping", value: HELLO_PING })] : []),
  ];
  const helloCommand = (body: Uint8Array, lengthBytes?: number) =>
    Buffer.concat([Uint8Array.of(8), message(RETURN_HELLO, body, lengthBytes)]);
  const ramStart = encodeRamStart(1, [{ name: "ram", lengthBytes: BYTES }]);

  /** Says all that on the main channel beside one packet channel, and closes. */
  const say = async (to: string, pieces: readonly Uint8Array[]) => {
    const [main, channel] = [connect(to), connect(to)];
    for (const socket of [main, channel]) socket.on("error", () => {}).resume();
    await Promise.all([once(main, "connect"), once(channel, "connect")]);
    channel.write(encodeMultifdInit({ uuid: new Uint8Array(16), channel: 0 }));
    main.end(Buffer.concat(pieces));
    return () => {
      main.destroy();
      channel.destroy();
    };
  };
  const receive = async (compression: Compression, pieces: readonly Uint8Array[]) => {
    const listen = `unix:${path("socket")}`;
    const receiver = await startReceiver({ listen, channels: 1, compression, ram: { ram: path("ram") } });
    const hangUp = await say(path("socket"), pieces);
    const error = await receiver.result.then(() => assert.fail("it was taken"), ownError);
    hangUp();
    assert.deepEqual(readdirSync(dir), [], "nothing is left behind");
    return error;
  };

  for (const [what, code, body, lengthBytes] of spoilt) {
    it(`refuses a source's hello ${what}`, async () => {
      const error = await receive("lz4", [...opening(true), helloCommand(body, lengthBytes), ramStart]);
      assert.equal(error.code, code, error.message);
    });
  }

  it("refuses a source's hello for a method that was not offered", async () => {
    const error = await receive("lz4", [...opening(true), helloCommand(encodeHello({ methods: ["none", "zstd"] }))]);
    assert.equal(error.code, "HELLO_METHODS");
  });

  for (const [what, compression, pieces] of [
    ["that was not asked for", "lz4", [...opening(false), helloCommand(hello)]],
    ["where none was told", "none", [...opening(true), helloCommand(hello)]],
    ["said twice", "lz4", [...opening(true), helloCommand(hello), helloCommand(hello)]],
  ] as const) {
    it(`refuses a source's hello ${what}`, async () => {
      assert.equal((await receive(compression, pieces)).code, "HELLO_UNEXPECTED");
    });
  }

  it("keeps to QEMU's wire where a source asks for a hello and then says none", async () => {
    assert.equal((await receive("lz4", [...opening(true), ramStart])).code, "LZ4_WITHOUT_HELLO");
  });

  for (const [what, code, pieces] of [
    ["that makes no sense", "HELLO_MAGIC", [...opening(true), helloCommand(Buffer.from("what a fine day"))]],
    ["that was not asked for", "HELLO_UNEXPECTED", [...opening(false), helloCommand(hello)]],
    ["said twice", "HELLO_UNEXPECTED", [...opening(true), helloCommand(hello), helloCommand(hello)]],
    [
      "behind another command",
      "HELLO_UNEXPECTED",
      [...opening(true), encodeCommand({ name: "ping", value: 7 }), helloCommand(hello)],
    ],
    ["that never comes", "LZ4_WITHOUT_HELLO", [...opening(true), ramStart]],
  ] as const) {
    it(`refuses a source's hello ${what}, in a relay`, async () => {
      const destination = await startScriptedDestination(path("far"), {});
      const listen = `unix:${path("socket")}`;
      const relay = await startRelay({
        ...{ listen, to: `unix:${path("far")}`, channels: 1, compression: "lz4" },
        ...{ toChannels: 1, toCompression: "none" },
      });
      const hangUp = await say(path("socket"), pieces);
      const error = await relay.result.then(() => assert.fail("it was passed on"), ownError);
      hangUp();
      await destination.close();
      assert.equal(error.code, code, error.message);
    });
  }
});
