/** Real connections at a real listener, in every order and with every fault of their first bytes. */
import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type Address, Channel } from "@multifd/channel";
import { pollReadable, receiveBytes, sendBytes } from "@multifd/native";
import { encodeFileHeader, encodeMultifdInit, type ProtocolError, parseUuid } from "@multifd/protocol";
import { type Connections, Reception, type ReceptionTerms } from "./reception.js";

const MAIN = encodeFileHeader();
const UUID = parseUuid("01234567-89ab-cdef-0123-456789abcdef");
const NO_UUID = new Uint8Array(16);
const init = (channel: number, uuid = NO_UUID) => encodeMultifdInit({ uuid, channel });

describe("reception", () => {
  let dir: string;
  let address: Address;
  let reception: Reception;
  let accepted: Promise<Connections>;
  /** What was told of those who came when all were there. */
  let surplus: unknown[];
  const opened: Channel[] = [];
  beforeEach(() => {
    dir = mkdtempSync(join(tmpdir(), "multifd-"));
    address = { kind: "unix", path: join(dir, "s") };
  });
  afterEach(() => {
    for (const channel of opened.splice(0)) channel.close();
    reception.close();
    rmSync(dir, { recursive: true });
  });

  /** Listens and begins to accept. */
  async function receive(terms: Partial<ReceptionTerms> = {}, signal = new AbortController().signal): Promise<void> {
    reception = await Reception.listen(address, { channels: 2, handshakeTimeoutMs: 10_000, ...terms });
    surplus = [];
    accepted = reception.accept(signal, (error) => surplus.push(error));
    accepted.catch(() => {}); // told by whoever awaits it
  }

  /** Connects and says `bytes`. */
  async function connect(bytes: Uint8Array = new Uint8Array()): Promise<Channel> {
    const channel = await Channel.connect(address, 5000);
    opened.push(channel);
    if (bytes.length > 0) sendBytes(channel.descriptor, bytes);
    return channel;
  }

  for (const [what, order] of [
    ["main first", ["main", 0, 1]],
    ["main last", [1, 0, "main"]],
    ["main in between, channels backwards", [1, "main", 0]],
  ] as const) {
    it(`tells connections apart by what they say: ${what}`, async () => {
      await receive();
      for (const who of order) {
        const channel = await connect(who === "main" ? MAIN : init(who));
        sendBytes(channel.descriptor, Buffer.from(`I am ${who}`));
        channel.shutDown();
      }
      const { main, channels } = await accepted;
      const said = (channel: Channel) => {
        const out = Buffer.alloc(30);
        return out.toString("latin1", 0, receiveBytes(channel.descriptor, out));
      };
      assert.deepEqual(channels.map(said), ["I am 0", "I am 1"]);
      assert.equal(said(main), `${Buffer.from(MAIN).toString("latin1")}I am main`, "nothing of it was taken");
      for (const channel of [main, ...channels]) channel.close();
    });
  }

  it("is held up neither by a silent connection nor by a first message in pieces", async () => {
    await receive();
    await connect();
    const slow = await connect(init(0).subarray(0, 3));
    await connect(init(1));
    await connect(MAIN);
    sendBytes(slow.descriptor, init(0).subarray(3, 63));
    sendBytes(slow.descriptor, init(0).subarray(63));
    const { main, channels } = await accepted;
    assert.equal(channels.length, 2);
    for (const channel of [main, ...channels]) channel.close();
  });

  it("names who is missing when the time is over, and counts who said nothing", async () => {
    await receive({ channels: 3, handshakeTimeoutMs: 150 });
    await connect(init(1));
    await connect();
    await assert.rejects(accepted, {
      name: "ChannelError",
      code: "CHANNELS_MISSING",
      message:
        /^unix:.*: the main channel, channel 0, channel 2 did not come within 150 ms of the first connection \(1 connected without saying what they are\)/,
    });
  });

  it("starts no clock for a probe that connects and leaves", async () => {
    await receive({ handshakeTimeoutMs: 1000 });
    const probe = await connect();
    probe.shutDown();
    // The end reaches the probe when the reception has let it go: from then on nobody is there.
    receiveBytes(probe.descriptor, new Uint8Array(1));
    await new Promise((resolve) => setTimeout(resolve, 1300)); // longer than the time: a clock left running would be over
    for (const bytes of [MAIN, init(0), init(1)]) await connect(bytes);
    const { main, channels } = await accepted;
    for (const channel of [main, ...channels]) channel.close();
  });

  it("is given up while it waits", async () => {
    const controller = new AbortController();
    await receive({}, controller.signal);
    await connect(MAIN);
    controller.abort();
    await assert.rejects(accepted, { code: "CANCELLED" });
  });

  it("takes the UUID that it was told", async () => {
    await receive({ uuid: UUID });
    for (const bytes of [init(0, UUID), init(1, UUID), MAIN]) await connect(bytes);
    const { main, channels } = await accepted;
    for (const channel of [main, ...channels]) channel.close();
  });

  const TLS_HELLO = Uint8Array.of(0x16, 3, 1, 0, 200);
  for (const [what, terms, said, code, message] of [
    ["a channel that comes twice", {}, [init(1), init(1)], "MULTIFD_CHANNEL_TWICE", /channel 1 came twice/],
    ["a channel beyond those expected", {}, [init(2)], "MULTIFD_CHANNEL_ID", /channel 2 came, .* 2 \(0 to 1\)/],
    ["two main channels", {}, [MAIN, MAIN], "MAIN_CHANNEL_TWICE", /one source at a time/],
    [
      "channels of two VMs",
      {},
      [init(0), init(1, UUID)],
      "MULTIFD_UUID",
      /channel 1 .*the channels before it bear 0000/,
    ],
    ["another VM than expected", { uuid: UUID }, [init(0)], "MULTIFD_UUID", /this side expects 01234567-89ab/],
    ["a TLS hello", {}, [TLS_HELLO], "CONNECTION_MAGIC", /began with 16030100; .*it looks like TLS/],
    ["any other program", {}, [Buffer.from("GET / HTTP/1.1")], "CONNECTION_MAGIC", /is the peer a migration source/],
  ] as const) {
    it(`refuses ${what}, and says so`, async () => {
      await receive(terms);
      for (const bytes of said) await connect(bytes);
      await assert.rejects(accepted, { name: "ProtocolError", code, message });
    });
  }

  /** Everybody whom two channels need is there, and is closed when the test ends. */
  async function complete(terms: Partial<ReceptionTerms> = {}): Promise<Connections> {
    await receive(terms);
    for (const bytes of [init(0), init(1), MAIN]) await connect(bytes);
    const connections = await accepted;
    opened.push(connections.main, ...connections.channels);
    return connections;
  }

  /** Waits until `connection` was hung up on, for nothing was ever said to it. */
  async function hungUp(connection: Channel): Promise<void> {
    assert.deepEqual(await pollReadable([connection.descriptor], 10_000), [true]);
  }

  it("lets nobody in any more after the last call", async () => {
    await complete();
    reception.lastCall();
    await assert.rejects(connect(init(2)), { code: "CONNECT_FAILED" });
    await reception.allHeard();
    assert.deepEqual(surplus, []);
  });

  it("lets nobody in any more once everybody is there, where nobody wants to hear of it", async () => {
    reception = await Reception.listen(address, { channels: 2, handshakeTimeoutMs: 10_000 });
    accepted = reception.accept(new AbortController().signal);
    for (const bytes of [init(0), init(1), MAIN]) await connect(bytes);
    const { main, channels } = await accepted;
    opened.push(main, ...channels);
    await assert.rejects(connect(init(2)), { code: "CONNECT_FAILED" });
  });

  for (const [when, say] of [
    ["before the last call", async (late: Channel) => void sendBytes(late.descriptor, init(3))],
    [
      "in pieces, the last of them after the last call",
      async (late: Channel) => {
        sendBytes(late.descriptor, init(3).subarray(0, 5));
        reception.lastCall();
        sendBytes(late.descriptor, init(3).subarray(5));
      },
    ],
  ] as const) {
    it(`tells of a channel more than expected that speaks when all are there: ${when}`, async () => {
      await complete();
      const late = await connect();
      await say(late);
      reception.lastCall();
      await reception.allHeard();
      const [error, ...others] = surplus as Error[];
      assert.deepEqual(others, []);
      assert.equal((error as ProtocolError).code, "MULTIFD_CHANNEL_ID");
      assert.match(error!.message, /channel 3 came, this side expects 2 \(0 to 1\); set the same number/);
      assert.deepEqual(await pollReadable([late.descriptor], 0), [false], "not hung up on");
    });
  }

  it("minds nobody else who comes late, and hangs up only on what no source says", async () => {
    await complete({ uuid: NO_UUID });
    const held = [MAIN, init(0), init(9, UUID)];
    const others = await Promise.all([...held, Buffer.from("GET / HTTP/1.1")].map(connect));
    await hungUp(others.pop()!);
    reception.lastCall();
    await reception.allHeard();
    assert.deepEqual(surplus, []);
    assert.deepEqual(await pollReadable(descriptorsOf(others), 0), [false, false, false]);
    reception.close();
    for (const other of others) await hungUp(other);
  });

  it("gives who comes late, and says nothing, its time and no more", async () => {
    await complete({ handshakeTimeoutMs: 2000 });
    const silent = await connect();
    const probe = await connect();
    probe.close();
    reception.lastCall();
    await reception.allHeard();
    await hungUp(silent);
    assert.deepEqual(surplus, []);
  });

  it("settles only when whoever has come has said what it is", async () => {
    await complete();
    const late = await connect();
    let spoken = false;
    // After more than the quiet that would do, had everybody spoken.
    setTimeout(() => {
      spoken = true;
      sendBytes(late.descriptor, init(3));
    }, 350);
    await reception.settle();
    assert.equal(spoken, true);
    assert.deepEqual(await pollReadable([late.descriptor], 0), [false], "it is held");
  });

  it("settles at once when nobody has come, and is given up when it is closed", async () => {
    await receive();
    await reception.settle();
    reception.close();
    await assert.rejects(accepted, { code: "CANCELLED" });
  });
});

const descriptorsOf = (channels: readonly Channel[]) => channels.map((channel) => channel.descriptor);
