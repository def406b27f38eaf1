/** The command line when a migration fails: exit status 1, one `failed` as its last word, and nothing left behind. */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { createScratchDir, removeScratchDir } from "../peers/index.js";
import type { Recording } from "../recorder.js";
import { type Faults, replayMigration } from "../replayer.js";
import { FIELD, findPacket, patchWords } from "./packet-walk.js";
import { recordQemu, sparseImage } from "./recordings.js";
import { mountSmallDisk, unmountSmallDisk } from "./small-disk.js";

const MULTIFD = fileURLToPath(new URL("../../../packages/cli/dist/main.js", import.meta.url));

describe("multifd receive, when it fails", function () {
  this.timeout(20_000);
  let recording: Recording;
  let dir: string;
  before(async () => {
    recording = await recordQemu("11.1", "none");
  });
  beforeEach(() => {
    dir = createScratchDir();
  });
  afterEach(() => removeScratchDir(dir));

  const receive = async (flags: readonly string[], faults: Faults, ram = join(dir, "ram")) => {
    const devices = join(dir, "devices");
    const all = ["receive", "--json", "--listen", `unix:${join(dir, "socket")}`, "--ram", `pc.ram=${ram}`];
    const ended = run([...all, "--devices", devices, ...flags], (address) =>
      replayMigration(address, recording, faults),
    );
    const { events, status } = await ended;
    assert.equal(status, 1);
    assert.equal(events.filter(({ event }) => event === "failed").length, 1);
    assert.equal(events.at(-1)?.event, "failed");
    assert.deepEqual(readdirSync(dir), []);
    return events.at(-1)!.code;
  };

  it("for want of a channel", async () => {
    const code = await receive(["--handshake-timeout", "300"], { omitChannels: [1] });
    assert.equal(code, "CHANNELS_MISSING");
  });

  it("for a wrong compression", async () => {
    assert.equal(await receive(["--compression", "zstd"], {}), "MULTIFD_COMPRESSION");
  });

  it("for another VM's UUID", async () => {
    assert.equal(await receive(["--uuid", "11111111-2222-3333-4444-555555555555"], {}), "MULTIFD_UUID");
  });

  it("for a page outside its RAM block", async () => {
    const packet = findPacket(recording, ({ normalPages }) => normalPages > 0);
    const code = await receive([], { patch: [patchWords(packet, FIELD.offsets, 1, 0)] });
    assert.equal(code, "MULTIFD_OFFSET_OUTSIDE");
  });

  it("for a main channel that is cut", async () => {
    assert.equal(await receive([], { cutMainAt: recording.main.length - 1 }), "STREAM_CUT");
  });

  it("for a full disk", async () => {
    const disk = mountSmallDisk(2 ** 20);
    try {
      assert.equal(await receive([], {}, join(disk, "ram")), "SYSTEM_ENOSPC");
      assert.deepEqual(readdirSync(disk), []);
    } finally {
      unmountSmallDisk(disk);
    }
  });

  it("and so does multifd send, when nobody is there", async () => {
    sparseImage(join(dir, "ram"));
    const to = `unix:${join(dir, "nobody")}`;
    const { events, status } = await run(["send", "--json", "--ram", `pc.ram=${join(dir, "ram")}`, "--to", to], null);
    assert.deepEqual([status, events.map(({ event, code }) => [event, code])], [1, [["failed", "CONNECT_FAILED"]]]);
    assert.ok(existsSync(join(dir, "ram")));
  });
});

type Line = { readonly event: string; readonly code?: string; readonly address?: string };

/** Runs a command to its end; calls `whenListening` with the address it listens on. */
async function run(args: readonly string[], whenListening: ((address: string) => Promise<unknown>) | null) {
  const child = spawn(process.execPath, [MULTIFD, ...args], { stdio: ["ignore", "pipe", "inherit"] });
  const exit = once(child, "exit");
  const events: Line[] = [];
  let replayed: Promise<unknown> = Promise.resolve();
  try {
    for await (const line of createInterface({ input: child.stdout })) {
      const event = JSON.parse(line) as Line;
      events.push(event);
      if (event.event === "listening") replayed = whenListening!(event.address!);
    }
    await replayed;
    return { events, status: (await exit)[0] as number | null };
  } finally {
    child.kill("SIGKILL");
  }
}
