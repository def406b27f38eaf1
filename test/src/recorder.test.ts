import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer, type Server, type Socket } from "node:net";
import { join } from "node:path";
import {
  assertSameBytes,
  createScratchDir,
  mixedImage,
  QemuProcess,
  type QemuVersion,
  removeScratchDir,
  zeroImage,
} from "./peers/index.js";
import { type Recorder, type Recording, recordMigration, startRecorder } from "./recorder.js";
import { replayMigration } from "./replayer.js";

const BYTES = 8 * 2 ** 20;
const SHUT_FAILURE = Buffer.from("0001000400000001", "hex");
const versions: readonly QemuVersion[] = ["7.2", "11.1"];

describe("recorder and replayer", () => {
  let dir: string;
  beforeEach(() => {
    dir = createScratchDir();
  });
  afterEach(() => removeScratchDir(dir));

  for (const version of versions) {
    for (const returnPath of [true, false]) {
      it(`take QEMU ${version}'s migration in and out, ${returnPath ? "with" : "without"} return path`, async () => {
        const ram = (name: string) => ({ id: "pc.ram", path: join(dir, name), bytes: BYTES });
        const setup = { channels: 2, compression: "zlib", capabilities: { "return-path": returnPath } } as const;
        mixedImage(ram("source").path, BYTES, 3);
        zeroImage(ram("destination").path, BYTES);
        const recorder = await startRecorder(`unix:${join(dir, "recorder.sock")}`, 2);
        const source = await QemuProcess.start({ version, memory: [ram("source")], paused: true });
        const memory = [ram("destination")];
        const destination = await QemuProcess.start({ version, memory, paused: true, incoming: "defer" });
        try {
          await source.setMigration(setup);
          await source.migrateTo(recorder.address);
          assert.equal((await source.waitMigration()).status, "completed");
          const recording = await recorder.recording;

          const address = `unix:${join(dir, "destination.sock")}`;
          await destination.setMigration(setup);
          await destination.listen(address);
          const { shut } = await replayMigration(address, recording);
          assert.equal(shut, returnPath ? 0 : null);
          assert.equal((await destination.waitMigration()).status, "completed");
        } finally {
          recorder.close();
          await Promise.all([source.stop(), destination.stop()]);
        }
        assertSameBytes(ram("source").path, ram("destination").path);
      });
    }
  }
});

/** The smallest recording that has every part the two look at: return path, PING, VM description; two channels. */
function smallRecording(): Recording {
  const json = Buffer.from('{"page_size":4096,"devices":[]}');
  const length = Buffer.alloc(4);
  length.writeUInt32BE(json.length);
  const main = ["5145564d00000003", "0800010000080002000400000007", "0006"].map((hex) => Buffer.from(hex, "hex"));
  const channel = (id: number) => {
    const bytes = Buffer.alloc(100_000, id + 1);
    bytes.writeUInt32BE(0x11223344, 0);
    bytes[24] = id;
    return bytes;
  };
  return { main: Buffer.concat([...main, length, json]), channels: [channel(0), channel(1)] };
}

describe("recorder", () => {
  let dir: string;
  let recorder: Recorder | null;
  beforeEach(() => {
    dir = createScratchDir();
    recorder = null;
  });
  afterEach(() => {
    recorder?.close();
    removeScratchDir(dir);
  });

  it("keeps every byte, and answers PONG with the value asked and SHUT with success", async () => {
    recorder = await startRecorder("tcp:127.0.0.1:0", 2);
    const sent = smallRecording();
    const [received, { answers, shut }] = await Promise.all([
      recorder.recording,
      replayMigration(recorder.address, sent),
    ]);
    assert.deepEqual(received, { main: Buffer.from(sent.main), channels: sent.channels.map((b) => Buffer.from(b)) });
    assert.equal(Buffer.from(answers).toString("hex"), "0002000400000007" + "0001000400000000");
    assert.equal(shut, 0);
  });

  it("rejects a migration that broke off, and says what had come", async () => {
    recorder = await startRecorder(`unix:${join(dir, "sock")}`, 2);
    const rejected = assert.rejects(recorder.recording, /before its migration was whole; .*5145564d 20 bytes, closed/);
    await replayMigration(recorder.address, smallRecording(), { cutMainAt: 20 });
    await rejected;
  });

  it("rejects when the time is over", async () => {
    await assert.rejects(recordMigration(`unix:${join(dir, "sock")}`, 2, 1), /no whole migration within 1 ms/);
  });

  it("refuses an address it does not understand", async () => {
    await assert.rejects(startRecorder("udp:here", 1), /neither unix:PATH nor tcp:HOST:PORT/);
  });
});

describe("replayer", () => {
  let dir: string;
  let address: string;
  let server: Server;
  let connections: { readonly socket: Socket; readonly chunks: Buffer[]; readonly ended: Promise<void> }[];
  /** What the destination read once that many connections have ended, shortest first. */
  const received = async (count: number) => {
    while (connections.length < count) await once(server, "connection");
    await Promise.all(connections.map(({ ended }) => ended));
    return connections.map(({ chunks }) => Buffer.concat(chunks)).sort((a, b) => a.length - b.length);
  };
  const recording = smallRecording();

  beforeEach(async () => {
    dir = createScratchDir();
    address = `unix:${join(dir, "sock")}`;
    connections = [];
    server = createServer((socket) => {
      const chunks: Buffer[] = [];
      socket.on("data", (chunk) => chunks.push(chunk));
      const ended = new Promise<void>((resolve) => socket.once("end", resolve));
      connections.push({ socket, chunks, ended });
      socket.on("error", () => {});
      // As a destination does that has lost a connection: it says SHUT, with failure.
      void ended.then(() => {
        for (const other of connections) {
          if (other.chunks[0]?.toString("latin1", 0, 4) === "QEVM") other.socket.write(SHUT_FAILURE);
        }
      });
    });
    await new Promise<void>((resolve) => server.listen(join(dir, "sock"), resolve));
  });
  afterEach(() => {
    for (const { socket } of connections) socket.destroy();
    server.close();
    removeScratchDir(dir);
  });

  it("cuts a channel at any byte", async () => {
    const cutChannelAt = { channel: 1, bytes: 70_001 };
    const { shut } = await replayMigration(address, recording, { cutChannelAt });
    assert.equal(shut, 1);
    const expected = [recording.main, recording.channels[1]!.subarray(0, 70_001), recording.channels[0]!];
    assert.deepEqual(
      await received(3),
      expected.map((bytes) => Buffer.from(bytes)),
    );
  });

  it("changes the bytes it is told to, and no other", async () => {
    const patch = [{ stream: 0, at: 99_999, bytes: Uint8Array.of(0xee) }];
    await replayMigration(address, recording, { patch, cutMainAt: recording.main.length });
    const spoilt = Buffer.from(recording.channels[0]!);
    spoilt[99_999] = 0xee;
    const channel0 = (await received(3)).find((bytes) => bytes.length === 100_000 && bytes[24] === 0);
    assert.deepEqual(channel0, spoilt);
  });

  it("leaves channels out and opens connections that stay silent", async () => {
    const faults = { omitChannels: [0], silentConnections: 2, cutMainAt: 10 };
    await replayMigration(address, recording, faults);
    assert.deepEqual(
      (await received(4)).map((bytes) => bytes.length),
      [0, 0, 10, 100_000],
    );
  });

  it("holds a cut stream open until it is told to let go", async () => {
    const letGo = new AbortController();
    const replayed = replayMigration(address, recording, { cutMainAt: 10, holdOpen: true, signal: letGo.signal });
    const ended = replayed.then(() => "ended");
    const allSent = new Promise<string>((resolve) => {
      const look = () => {
        const bytes = connections.flatMap(({ chunks }) => chunks).reduce((sum, { length }) => sum + length, 0);
        if (bytes === 200_010) resolve("all sent");
        else setImmediate(look);
      };
      look();
    });
    assert.equal(await Promise.race([ended, allSent]), "all sent");
    letGo.abort();
    assert.equal(await ended, "ended");
  });

  it("says so when a destination neither answers nor hangs up", async () => {
    await assert.rejects(replayMigration(address, recording, {}, 50), /not ended within 50 ms/);
  });

  it("refuses a fault that lies outside the recording", async () => {
    await assert.rejects(replayMigration(address, recording, { cutMainAt: 10_000 }), RangeError);
    const patch = [{ stream: 1, at: 100_000, bytes: Uint8Array.of(1) }];
    await assert.rejects(replayMigration(address, recording, { patch }), RangeError);
  });
});
