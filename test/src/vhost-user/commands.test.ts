/** `multifd vhost-user` on real back-ends: state out of one and into another, and the pages that one writes. */
import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { existsSync, mkdirSync, openSync, readFileSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { runCommandLine } from "@multifd/cli";
import { submitBlk } from "../peers/blk-requests.js";
import {
  BackEndProcess,
  type BackEndProgram,
  createScratchDir,
  DriverQueue,
  GuestMemory,
  passt,
  removeScratchDir,
  storageDaemon,
  virtiofsd,
} from "../peers/index.js";

const MIB = 2 ** 20;

describe("multifd vhost-user", () => {
  let dir: string;
  const closers: (() => unknown)[] = [];
  before(() => {
    dir = createScratchDir();
    mkdirSync(join(dir, "share"));
  });
  afterEach(async () => {
    for (const close of closers.splice(0).reverse()) await close();
  });
  after(() => removeScratchDir(dir));

  async function start(program: BackEndProgram, socket: string): Promise<void> {
    const process = new BackEndProcess(program);
    closers.push(() => process.stop());
    await process.listens(socket);
  }

  async function run(...words: string[]) {
    let out = "";
    let err = "";
    const code = await runCommandLine(["vhost-user", ...words], {
      out: (text) => {
        out += text;
      },
      err: (text) => {
        err += text;
      },
      isInteractive: false,
      columns: () => 80,
    });
    return {
      code,
      out,
      err,
      events: out
        .split("\n")
        .filter((line) => line.startsWith("{"))
        .map((line) => JSON.parse(line)),
    };
  }

  it("saves a virtiofsd's state and loads it into another", async () => {
    const state = join(dir, "files.state");
    const [source, destination] = [join(dir, "a"), join(dir, "b")];
    await start(virtiofsd(source, join(dir, "share")), source);
    const saved = await run("save", "--socket", source, "--state", state, "--json");
    assert.deepEqual([saved.code, saved.err], [0, ""]);
    assert.deepEqual(
      saved.events.map(({ event }) => event),
      ["connected", "completed"],
    );
    assert.ok(saved.events[0].protocolFeatures.includes("DEVICE_STATE"));
    assert.equal(saved.events[1].bytes, 10);
    assert.equal(readFileSync(state).toString("hex"), "01000200000000000000");
    await start(virtiofsd(destination, join(dir, "share")), destination);
    const loaded = await run("load", "--socket", destination, "--state", state);
    assert.equal(loaded.code, 0);
    assert.match(loaded.err, /10 bytes of state taken/);
  });

  it("tells when a back-end refuses the state, in one line", async () => {
    const socket = join(dir, "c");
    writeFileSync(join(dir, "bad.state"), "no state of any passt");
    await start(passt(socket), socket);
    const { code, events } = await run("load", "--socket", socket, "--state", join(dir, "bad.state"), "--json");
    assert.equal(code, 1);
    assert.deepEqual(
      events.map(({ event, code }) => [event, code]),
      [
        ["connected", undefined],
        ["failed", "VHOST_STATE_CHECK"],
      ],
    );
  });

  it("leaves no file where a back-end has no state to give", async () => {
    const socket = join(dir, "d");
    writeFileSync(join(dir, "image"), randomBytes(MIB));
    await start(storageDaemon(socket, join(dir, "image")), socket);
    const { code, err } = await run("save", "--socket", socket, "--state", join(dir, "none.state"));
    assert.equal(code, 1);
    assert.match(err, /does not offer protocol feature 19 \(DEVICE_STATE\).*\[VHOST_NOT_OFFERED\]/);
    assert.ok(!existsSync(join(dir, "none.state")) && !existsSync(join(dir, "none.state.partial")));
  });

  it("shows the pages that a back-end writes, and where its ring stands", async () => {
    const socket = join(dir, "e");
    const ram = join(dir, "ram");
    writeFileSync(ram, "");
    truncateSync(ram, MIB);
    writeFileSync(join(dir, "image"), randomBytes(MIB));
    const memory = new GuestMemory([{ guestAddress: MIB, lengthBytes: MIB }], openSync(ram, "r+"));
    const queue = new DriverQueue(memory, 0, MIB + 0x1000, 8);
    closers.push(() => {
      queue.close();
      memory.close();
    });
    const place = { head: MIB + 0x8000, status: MIB + 0x9000 };
    submitBlk(memory, queue, place, { kind: "read", sector: 0, data: MIB + 0x2_0800, bytes: 8192 });
    await start(storageDaemon(socket, join(dir, "image")), socket);
    const ring = `0=8,${MIB + 0x1000},0x${(MIB + 0x2000).toString(16)},${MIB + 0x3000}`;
    const view = ["--memory", `0x100000=${ram}`, "--ring", ring, "--interval", "500", "--count", "3", "--json"];
    const { code, out, events } = await run("dirty-log", "--socket", socket, ...view);
    assert.equal(code, 0, out);
    const dirty = events.filter(({ event }) => event === "dirty");
    assert.deepEqual(dirty.map(({ pages }) => pages).toSorted(), [0, 0, 5]);
    assert.deepEqual(
      dirty.flatMap(({ ranges }) => ranges),
      [
        { first: MIB + 0x3000, last: MIB + 0x3fff },
        { first: MIB + 0x9000, last: MIB + 0x9fff },
        { first: MIB + 0x2_0000, last: MIB + 0x2_2fff },
      ],
    );
    assert.deepEqual(
      events.slice(-1).map(({ event, pages, bases }) => [event, pages, bases]),
      [["completed", 5, [1]]],
    );
  });

  it("is told in one line what is wrong with a value", async () => {
    for (const words of [
      ["dirty-log", "--socket", "s", "--memory", "here"],
      ["dirty-log", "--socket", "s", "--memory", "0=ram", "--ring", "0=1,2"],
      ["dirty-log", "--socket", "s"],
      ["save", "--socket", "s"],
    ]) {
      const { code, err } = await run(...words);
      assert.equal(code, 2);
      assert.equal(err.trim().split("\n").length, 1, err);
    }
    const { code, err } = await run("save", "--socket", join(dir, "nobody"), "--state", join(dir, "x"));
    assert.equal(code, 1);
    assert.match(err, /CONNECT_FAILED/);
  });
});
