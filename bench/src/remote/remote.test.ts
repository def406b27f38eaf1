import assert from "node:assert/strict";
import { once } from "node:events";
import { createConnection, type Server, type Socket } from "node:net";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { createScratchDir, removeScratchDir } from "@multifd/test/peers";
import { findCodec } from "../codecs.js";
import { arrivalMessage, FORMAT, parseArrival } from "./arrival-message.js";
import { openListener } from "./listener.js";
import { connectPlace } from "./remote-place.js";

describe("a migration to come, as one bench tells another", () => {
  const arrival = {
    kind: "multifd",
    codec: findCodec("zstd"),
    channels: 2,
    transport: "tcp",
    ramBytes: 2 ** 26,
  } as const;

  it("arrives as it was told", () => {
    assert.deepEqual(parseArrival(JSON.parse(JSON.stringify(arrivalMessage(arrival)))), arrival);
  });

  const wrong: readonly (readonly [field: string, value: unknown, says: RegExp])[] = [
    ["kind", "shell", /kind "shell"/],
    ["transport", "exec", /transport "exec"/],
    ["channels", 65, /65 channels/],
    ["channels", "2", /"2" channels/],
    ["ramBytes", 2 ** 26 + 1, /67108865 bytes/],
    ["ramBytes", -(2 ** 26), /bytes of RAM/],
    ["ramBytes", 2 ** 60, /bytes of RAM/],
    ["method", "rot13", /no codec called "rot13"/],
  ];
  for (const [field, value, says] of wrong) {
    it(`is refused with ${field} ${JSON.stringify(value)}`, () => {
      assert.throws(() => parseArrival({ ...arrivalMessage(arrival), [field]: value }), says);
    });
  }
});

type Answer = { readonly id?: number; readonly error?: string };

describe("a bench that listens", () => {
  let dir: string;
  let server: Server;
  let path: string;
  let socket: Socket;
  let answers: AsyncIterator<string>;
  /** Resolves when the first connection has been served. */
  let isFree: Promise<void>;
  let freed: () => void;

  /** Reads all that comes, so that it sees the end, too. */
  const dial = (): Socket => {
    const dialled = createConnection({ path });
    dialled.on("error", () => {}); // it may be shut on us
    return dialled.resume();
  };
  const ask = async (line: string): Promise<Answer> => {
    socket.write(`${line}\n`);
    const { value } = await answers.next();
    return JSON.parse(value as string) as Answer;
  };

  beforeEach(async () => {
    dir = createScratchDir("disk");
    path = join(dir, "bench.sock");
    isFree = new Promise((resolve) => {
      freed = resolve;
    });
    server = await openListener({ kind: "unix", path }, "11.1", (line) => {
      if (line.startsWith("free")) freed();
    });
    socket = dial();
    answers = createInterface({ input: socket })[Symbol.asyncIterator]();
    await once(socket, "connect");
  });
  afterEach(async () => {
    socket.destroy();
    server.close();
    await once(server, "close");
    removeScratchDir(dir);
  });

  it("answers each question by its number, and wrong ones with what is wrong", async () => {
    assert.deepEqual(await ask('{"id":7,"ask":"dance"}'), { id: 7, error: 'a question "dance"' });
    assert.deepEqual(await ask('{"id":8,"ask":"completed"}'), { id: 8, error: "no destination has been started" });
    const { error } = await ask('{"id":9,"ask":"start","kind":"multifd"}');
    assert.match(String(error), /a transport undefined/);
    assert.match(
      String((await ask('{"id":10,"ask":"hello","format":99}')).error),
      new RegExp(`format ${FORMAT}, that one 99`),
    );
  });

  it("hangs up on what is no JSON object, and on a line without end", async () => {
    socket.write("GET / HTTP/1.1\n");
    await once(socket, "close");
    await isFree;
    socket = dial();
    socket.write("x".repeat(20_000));
    await once(socket, "close");
  });

  it("serves one bench at a time, and the next when that has gone", async () => {
    await ask(`{"id":1,"ask":"hello","format":${FORMAT}}`); // being served
    await assert.rejects(connectPlace({ kind: "unix", path }, "11.1"), /another bench is being served/);
    socket.destroy();
    await isFree;
    const place = await connectPlace({ kind: "unix", path }, "11.1");
    assert.equal(place.machine?.node, process.version);
    place.close();
  });

  it("is not taken for one that compares with another QEMU", async () => {
    socket.destroy();
    await isFree;
    await assert.rejects(connectPlace({ kind: "unix", path }, "7.2"), /compares with QEMU 11.1; give both the same/);
  });

  it("says who is not there", async () => {
    await assert.rejects(connectPlace({ kind: "unix", path: `${path}.no` }, "11.1"), /the bench at unix:.*ENOENT/);
  });
});
