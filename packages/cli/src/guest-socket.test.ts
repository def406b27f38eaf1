import assert from "node:assert/strict";
import { once } from "node:events";
import { existsSync, fstatSync, mkdtempSync, rmSync } from "node:fs";
import { createConnection, createServer, type Server } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { DirtyBitmap } from "@multifd/memory";
import { type Mapping, mapFile, readMemory, unmap, writeMemory } from "@multifd/native";
import { GuestProcess } from "./demo/guest-process.js";
import { GuestSocket } from "./guest-socket.js";
import { LiveGuest } from "./live-guest.js";

const RAM_BYTES = 8 * 2 ** 20;
const PAGES = RAM_BYTES / 4096;

/** Source: native/guest/ram.c: a working-set page k begins with {k, counter, check word}. */
const WORKING_PAGES = PAGES / 4;

describe("guest process", () => {
  let directory = "";
  const processes: GuestProcess[] = [];
  const sockets: GuestSocket[] = [];
  const mappings: Mapping[] = [];
  beforeEach(() => {
    directory = mkdtempSync(join(tmpdir(), "multifd-guest-"));
  });
  afterEach(async () => {
    for (const mapping of mappings.splice(0)) unmap(mapping);
    for (const socket of sockets.splice(0)) socket.close();
    for (const guest of processes.splice(0)) await guest.end();
    rmSync(directory, { recursive: true });
  });

  async function start(name: string, options: { rate?: number; incoming?: boolean }): Promise<GuestProcess> {
    const socketPath = join(directory, name);
    const guest = await GuestProcess.start({ socketPath, ramBytes: RAM_BYTES, incoming: false, ...options });
    processes.push(guest);
    return guest;
  }

  async function connect(guest: GuestProcess): Promise<GuestSocket> {
    const socket = await GuestSocket.connect(guest.address);
    sockets.push(socket);
    return socket;
  }

  function mapRam(socket: GuestSocket): Mapping {
    const mapping = mapFile(socket.descriptors[0]!, { lengthBytes: RAM_BYTES, writable: true });
    mappings.push(mapping);
    return mapping;
  }

  function page(ram: Mapping, index: number): Buffer {
    const bytes = Buffer.alloc(4096);
    readMemory(ram, index * 4096, bytes);
    return bytes;
  }

  it("describes its RAM and hands it over as a descriptor", async () => {
    const guest = await start("a", { rate: 0 });
    const { description, descriptors } = await connect(guest);
    assert.equal(description.pid, guest.pid);
    assert.deepEqual(
      description.blocks.map(({ block }) => block),
      [{ name: "guest.ram", lengthBytes: RAM_BYTES, pageBytes: 4096, pageCount: PAGES }],
    );
    assert.equal(descriptors.length, 1);
  });

  it("holds a third of zero pages and passes its own check, before a write and after many", async () => {
    const socket = await connect(await start("a", { rate: 0 }));
    const ram = mapRam(socket);
    const zeros = Array.from({ length: PAGES }, (_, index) => page(ram, index)).filter((bytes) => !bytes.some(Boolean));
    assert.ok(zeros.length > PAGES / 8 && zeros.length < PAGES / 2, String(zeros.length));
    const before = await socket.check();
    assert.deepEqual([before.stale, before.corrupt, before.pagesWritten], [0, 0, 0]);
    await socket.setRate(1e9);
    let after = await socket.check();
    while (after.pagesWritten < 3 * WORKING_PAGES) after = await socket.check();
    assert.deepEqual([after.pages, after.stale, after.corrupt, after.firstBadPage], [PAGES, 0, 0, null]);
  });

  it("writes nothing between pause and resume", async () => {
    const socket = await connect(await start("a", { rate: 1e9 }));
    const ram = mapRam(socket);
    await socket.pause();
    const paused = await socket.check();
    const bytes = Array.from({ length: PAGES }, (_, index) => page(ram, index));
    const still = await socket.check();
    assert.deepEqual([still.pagesWritten, still.running], [paused.pagesWritten, false]);
    assert.ok(bytes.every((before, index) => before.equals(page(ram, index))));
    await socket.resume();
    let running = await socket.check();
    while (running.pagesWritten === paused.pagesWritten) running = await socket.check();
    assert.equal(running.running, true);
  });

  it("finds one stale page and one corrupt byte", async () => {
    const socket = await connect(await start("a", { rate: 0 }));
    const ram = mapRam(socket);
    const old = page(ram, 5);
    await socket.setRate(1e9);
    let verdict = await socket.check();
    while (verdict.pagesWritten < 2 * WORKING_PAGES) verdict = await socket.check();
    await socket.pause();
    const current = page(ram, 5);
    assert.ok(!old.equals(current));
    writeMemory(ram, 5 * 4096, old);
    verdict = await socket.check();
    assert.deepEqual([verdict.stale, verdict.corrupt, verdict.firstBadPage], [1, 0, 5]);
    writeMemory(ram, 5 * 4096, current);
    // A page outside the working set counts too.
    writeMemory(ram, (PAGES - 1) * 4096 + 17, Uint8Array.of(page(ram, PAGES - 1)[17]! ^ 1));
    verdict = await socket.check();
    assert.deepEqual([verdict.stale, verdict.corrupt, verdict.firstBadPage], [0, 1, PAGES - 1]);
  });

  it("lets its writes be harvested from outside, each page it wrote and not the others", async () => {
    const guest = await start("a", { rate: 0 });
    const live = await LiveGuest.open(guest.address);
    try {
      const [{ block } = assert.fail("no RAM")] = live.ram;
      await live.tracker.start([block]);
      const dirty = new DirtyBitmap(block.pageCount);
      live.tracker.harvest(0, dirty);
      assert.equal(dirty.count(), 0);
      const mapping = mapFile(live.ram[0]!.descriptor, { lengthBytes: RAM_BYTES, writable: false });
      mappings.push(mapping);
      const before = Array.from({ length: PAGES }, (_, index) => page(mapping, index));
      await live.setRate(1e9);
      while ((await live.status()).pagesWritten < 100);
      await live.pause();
      live.tracker.harvest(0, dirty);
      const changed = before.flatMap((bytes, index) => (bytes.equals(page(mapping, index)) ? [] : [index]));
      assert.ok(changed.length >= 100);
      assert.deepEqual(
        changed.filter((index) => !dirty.has(index)),
        [],
      );
      assert.equal(dirty.count(), changed.length);
    } finally {
      await live.tracker.stop();
      live.close();
    }
  });

  it("goes on in another process from the state that was saved, and keeps what arrived as it was", async () => {
    const left = await connect(await start("a", { rate: 1e8 }));
    await left.pause();
    const state = await left.save();
    const right = await connect(await start("b", { incoming: true }));
    await assert.rejects(right.check(), { code: "GUEST_REFUSED" });
    await assert.rejects(right.run(), { code: "GUEST_REFUSED" });
    const [from, to] = [mapRam(left), mapRam(right)];
    for (let index = 0; index < PAGES; index++) writeMemory(to, index * 4096, page(from, index));
    await right.load(state);
    const { downtimeMs } = await right.run();
    assert.ok(downtimeMs > 0);
    const { pagesWritten } = await left.check();
    let verdict = await right.check();
    while (verdict.pagesWritten <= pagesWritten) verdict = await right.check();
    assert.deepEqual([verdict.stale, verdict.corrupt, verdict.running], [0, 0, true]);
    for (let index = 0; index < PAGES; index++) assert.ok(page(from, index).equals(page(to, index)));
    await assert.rejects(right.load(state), /a guest runs here already/);
  });

  it("refuses a state with one bit changed, and one of another size", async () => {
    const left = await connect(await start("a", { rate: 0 }));
    await assert.rejects(left.save(), /pause first/);
    await left.pause();
    const state = await left.save();
    const right = await connect(await start("b", { incoming: true }));
    for (let at = 0; at < state.length; at++) {
      const changed = Uint8Array.from(state);
      changed[at]! ^= 1;
      await assert.rejects(right.load(changed), { code: "GUEST_REFUSED" }, `byte ${at}`);
    }
    await right.load(state);
    await assert.rejects(right.load(state.subarray(1)), /88 bytes/);
  });

  it("refuses malformed commands and serves on, also the next connection", async () => {
    const guest = await start("a", { rate: 0 });
    const socket = createConnection((guest.address as { path: string }).path);
    socket.on("error", () => {}); // closed on a command too long, before all of it was read
    const lines = createInterface({ input: socket })[Symbol.asyncIterator]();
    for (const command of ["", "halt", "pause now", "rate", "rate -1", "rate 99999999999", `rate ${"9".repeat(30)}`]) {
      socket.write(`${command}\n`);
      assert.equal(JSON.parse((await lines.next()).value).ok, false, command);
    }
    socket.write("pau");
    socket.write("se\nresume\n");
    assert.equal(JSON.parse((await lines.next()).value).ok, true);
    assert.equal(JSON.parse((await lines.next()).value).ok, true);
    socket.write("x".repeat(10_000));
    assert.match((await lines.next()).value, /more than 4096 bytes/);
    const next = await connect(guest);
    assert.equal((await next.check()).running, true);
  });

  it("ends on quit and on SIGTERM, and removes its socket", async () => {
    const asked = await start("a", { rate: 0 });
    const told = await start("b", { rate: 0 });
    await (await connect(asked)).quit();
    await told.end();
    await asked.end();
    assert.equal(existsSync(join(directory, "b")), false);
    await assert.rejects(GuestSocket.connect(asked.address), { code: "GUEST_GONE" });
  });

  it("gives the RAM's descriptor back also where the guest went first", async () => {
    const guest = await start("a", { rate: 0 });
    const socket = await connect(guest);
    const [descriptor] = socket.descriptors;
    const { dev, ino } = fstatSync(descriptor!);
    await guest.end();
    await assert.rejects(socket.status(), { code: "GUEST_GONE" });
    socket.close();
    let now = { dev: -1, ino: -1 };
    try {
      now = fstatSync(descriptor!); // whoever got the number since
    } catch (error) {
      assert.equal((error as NodeJS.ErrnoException).code, "EBADF");
    }
    assert.notDeepEqual([now.dev, now.ino], [dev, ino]);
  });

  it("says why it does not start", async () => {
    const taken = await start("a", { rate: 0 });
    const options = { socketPath: (taken.address as { path: string }).path, ramBytes: RAM_BYTES, incoming: false };
    await assert.rejects(GuestProcess.start(options), { code: "GUEST_START", message: /Address already in use/ });
    await assert.rejects(GuestProcess.start({ ...options, ramBytes: 5 }), /--ram-bytes/);
  });
});

describe("guest socket", () => {
  let directory = "";
  let server: Server;
  beforeEach(async () => {
    directory = mkdtempSync(join(tmpdir(), "multifd-guest-"));
    server = createServer().listen(join(directory, "a"));
    await once(server, "listening");
  });
  afterEach(() => {
    server.close();
    rmSync(directory, { recursive: true });
  });

  async function connectTo(answer: string) {
    server.once("connection", (socket) => socket.end(answer));
    return GuestSocket.connect({ kind: "unix", path: join(directory, "a") });
  }

  it("refuses whoever is no guest, in words that say so", async () => {
    await assert.rejects(connectTo("HTTP/1.1 400 Bad Request\n"), { code: "GUEST_ANSWER", message: /control socket/ });
    await assert.rejects(connectTo("[1]\n"), { code: "GUEST_REFUSED" });
    await assert.rejects(connectTo("7\n"), { code: "GUEST_ANSWER" });
    await assert.rejects(connectTo(""), { code: "GUEST_ANSWER" });
  });

  it("refuses a description that came without its descriptors", async () => {
    const blocks = [{ name: "guest.ram", bytes: 4096, address: 4096, pageBytes: 4096 }];
    const description = JSON.stringify({ ok: true, pid: 7, blocks, tracking: true });
    await assert.rejects(connectTo(`${description}\n`), /0 descriptors came with its description, 1 were due/);
  });
});
