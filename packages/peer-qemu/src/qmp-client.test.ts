import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { createServer, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { QmpClient } from "./qmp-client.js";

/** What QEMU 11.1 says first. */
const GREETING = {
  QMP: { version: { qemu: { micro: 2, minor: 1, major: 11 }, package: "Debian 1:11.1.2+ds-3" }, capabilities: ["oob"] },
};
type Command = { execute: string; arguments: Record<string, unknown>; id: number };

/** A QEMU of our own: it greets, and answers each command with whatever lines `answer` gives it. */
class FakeQemu {
  readonly path: string;
  readonly #dir = mkdtempSync(join(tmpdir(), "multifd-qmp-"));
  readonly #server = createServer();
  readonly #connected: Promise<Socket>;
  answer: (command: Command) => unknown[] = ({ id }) => [{ return: {}, id }];

  constructor(greeting: string = JSON.stringify(GREETING)) {
    this.path = join(this.#dir, "qmp.sock");
    this.#connected = new Promise((resolve) => {
      this.#server.once("connection", (socket) => {
        socket.setEncoding("utf8");
        socket.on("error", () => {}); // the client's sudden close is what some tests are about
        socket.on("data", (text) => {
          for (const line of String(text).trim().split("\n"))
            this.#send(socket, this.answer(JSON.parse(line) as Command));
        });
        socket.write(`${greeting}\r\n`);
        resolve(socket);
      });
    });
  }

  async connect(timeoutMs?: number): Promise<QmpClient> {
    await new Promise<void>((resolve) => this.#server.listen(this.path, resolve));
    return QmpClient.connect(this.path, timeoutMs);
  }

  async say(...messages: unknown[]): Promise<void> {
    this.#send(await this.#connected, messages);
  }

  async sayRaw(text: string): Promise<void> {
    (await this.#connected).write(text);
  }

  async die(): Promise<void> {
    (await this.#connected).destroy();
  }

  async remove(): Promise<void> {
    this.#server.close();
    rmSync(this.#dir, { recursive: true });
  }

  #send(socket: Socket, messages: unknown[]): void {
    for (const message of messages) socket.write(`${JSON.stringify(message)}\r\n`);
  }
}

describe("QMP client", () => {
  let qemu: FakeQemu;
  let client: QmpClient | null;

  beforeEach(() => {
    qemu = new FakeQemu();
    client = null;
  });
  afterEach(async () => {
    client?.close();
    await qemu.remove();
  });

  it("leaves the negotiation mode before any other command", async () => {
    const seen: string[] = [];
    qemu.answer = ({ execute, id }) => {
      seen.push(execute);
      return [{ return: { status: "running" }, id }];
    };
    client = await qemu.connect();
    assert.deepEqual(await client.execute("query-status"), { status: "running" });
    assert.deepEqual(seen, ["qmp_capabilities", "query-status"]);
  });

  it("pairs answers with commands by id, in whatever order they come", async () => {
    client = await qemu.connect();
    let first: Command | null = null;
    qemu.answer = (command) => {
      if (!first) {
        first = command;
        return [];
      }
      return [
        { return: command.execute, id: command.id },
        { return: first.execute, id: first.id },
      ];
    };
    assert.deepEqual(await Promise.all([client.execute("one"), client.execute("two")]), ["one", "two"]);
  });

  it("rejects a refused command with QEMU's class and description", async () => {
    client = await qemu.connect();
    qemu.answer = ({ id }) => [{ error: { class: "GenericError", desc: "Multifd must be set" }, id }];
    await assert.rejects(client.execute("migrate-incoming"), {
      name: "ProtocolError",
      code: "QMP_COMMAND_FAILED",
      message: /migrate-incoming refused, GenericError: Multifd must be set/,
    });
  });

  it("finds an event that came before anyone waited", async () => {
    client = await qemu.connect();
    qemu.answer = ({ id }) => [
      { event: "STOP", timestamp: {} },
      { return: {}, id },
    ];
    await client.execute("stop");
    assert.deepEqual(await client.waitForEvent("STOP"), { event: "STOP", data: {} });
  });

  it("takes each event once, and only what the predicate accepts", async () => {
    client = await qemu.connect();
    const due = client.waitForEvent("MIGRATION", ({ status }) => status === "completed");
    const setup = { event: "MIGRATION", data: { status: "setup" } };
    await qemu.say(setup, { event: "MIGRATION", data: { status: "completed" } });
    assert.deepEqual((await due).data, { status: "completed" });
    assert.deepEqual(await client.waitForEvent("MIGRATION"), setup);
    await assert.rejects(
      client.waitForEvent("MIGRATION", () => true, 1),
      { code: "QMP_TIMEOUT", message: /seen: MIGRATION, MIGRATION/ },
    );
  });

  it("gives every event since the connection to whoever iterates, and ends with the socket", async () => {
    client = await qemu.connect();
    await qemu.say({ event: "STOP" }, { event: "RESUME" });
    await client.waitForEvent("RESUME");
    const names: string[] = [];
    for await (const { event } of client.events()) {
      names.push(event);
      if (names.length === 2) await qemu.say({ event: "SHUTDOWN" });
      if (names.length === 3) await qemu.die();
    }
    assert.deepEqual(names, ["STOP", "RESUME", "SHUTDOWN"]);
  });

  it("reads a message that arrives in pieces, and two that arrive at once", async () => {
    client = await qemu.connect();
    await qemu.sayRaw('{"event":"ST');
    await qemu.sayRaw('OP"}\r\n{"event":"RESUME"}\r\n');
    assert.equal((await client.waitForEvent("RESUME")).event, "RESUME");
    assert.equal((await client.waitForEvent("STOP")).event, "STOP");
  });

  it("names the command that got no answer, and goes on to the next", async () => {
    client = await qemu.connect();
    let silent: Command | null = null;
    qemu.answer = (command) => {
      if (command.execute === "cont") {
        silent = command;
        return [];
      }
      return [
        { return: "late", id: silent?.id },
        { return: "due", id: command.id },
      ];
    };
    await assert.rejects(client.execute("cont", {}, 1), { code: "QMP_TIMEOUT", message: /cont got no answer/ });
    assert.equal(await client.execute("query-status"), "due");
  });

  it("rejects all that waits when QEMU dies, by name", async () => {
    client = await qemu.connect();
    qemu.answer = () => [];
    const command = assert.rejects(client.execute("migrate"), { code: "QMP_CLOSED", message: /command migrate/ });
    const event = assert.rejects(client.waitForEvent("STOP"), { code: "QMP_CLOSED", message: /event STOP/ });
    await qemu.die();
    await Promise.all([command, event]);
    await assert.rejects(client.execute("cont"), { name: "ChannelError", code: "QMP_CLOSED" });
  });

  it("rejects a listener that greets in another language", async () => {
    await qemu.remove();
    qemu = new FakeQemu("220 mail ready");
    await assert.rejects(qemu.connect(), { name: "ProtocolError", code: "QMP_MALFORMED", message: /220 mail ready/ });
  });

  it("rejects a listener that never greets", async () => {
    await qemu.remove();
    qemu = new FakeQemu("");
    await assert.rejects(qemu.connect(20), { code: "QMP_TIMEOUT", message: /no greeting/ });
  });

  it("rejects a path where nobody listens", async () => {
    await assert.rejects(QmpClient.connect(`${qemu.path}-none`), { code: "QMP_CLOSED", message: /ENOENT/ });
  });
});
