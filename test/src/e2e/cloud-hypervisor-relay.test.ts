/**
 * Cloud Hypervisor's protocol through relays: as it is, and as multifd packets between two of them.
 */
import assert from "node:assert/strict";
import { once } from "node:events";
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { createServer, type Server } from "node:net";
import { join } from "node:path";
import {
  CLOUD_HYPERVISOR_CONFIG as CONFIG,
  createScratchDir,
  MultifdProcess,
  removeScratchDir,
  CLOUD_HYPERVISOR_STATE as STATE,
  type StoredVm,
  storedVm,
  writeStoredVm,
} from "../peers/index.js";

const LINK = ["--compression", "zstd", "--channels", "3"];

describe("multifd cloud-hypervisor relay", () => {
  let dir = "";
  let vm: StoredVm;
  beforeEach(() => {
    dir = createScratchDir();
    vm = writeStoredVm(dir, "vm");
  });
  afterEach(() => removeScratchDir(dir));

  const unix = (name: string) => `unix:${join(dir, name)}`;

  async function listening(process: MultifdProcess): Promise<string> {
    return (await process.waitFor(({ event }) => event === "listening")).address!;
  }

  const command = (...words: readonly string[]) => new MultifdProcess("cloud-hypervisor", ...words);

  /** A relay towards `to`. */
  async function startRelay(name: string, to: string, ...words: readonly string[]) {
    const relay = command("relay", "--listen", unix(name), "--to", to, ...words);
    return { relay, address: await listening(relay) };
  }

  /** Two relays with multifd packets between them. */
  async function startPair(to: string, link: readonly string[] = LINK) {
    const last = await startRelay("b.sock", to, "--listen-protocol", "multifd", ...link);
    const first = await startRelay("a.sock", last.address, "--to-protocol", "multifd", ...link);
    return { relays: [first.relay, last.relay], address: first.address };
  }

  const assertVm = ({ low, high, config, state }: StoredVm) => {
    assert.ok(readFileSync(low).equals(readFileSync(vm.low)), "low RAM is not what was sent");
    assert.ok(readFileSync(high).equals(readFileSync(vm.high)), "high RAM is not what was sent");
    assert.equal(readFileSync(config, "utf8"), CONFIG);
    assert.equal(readFileSync(state, "utf8"), STATE);
  };

  /** Every command completes. */
  async function assertCompleted(...processes: readonly MultifdProcess[]): Promise<void> {
    for (const process of processes) {
      const { last, stderr } = await process.outcome;
      assert.equal(last.event, "completed", `${JSON.stringify(last)} ${stderr}`);
    }
  }

  it("passes a VM on in Cloud Hypervisor's protocol, to the byte", async () => {
    const copy = storedVm(dir, "copy");
    const receiver = command("receive", "--listen", unix("in.sock"), ...copy.flags);
    const { relay, address } = await startRelay("a.sock", await listening(receiver), "--connections", "2");
    await assertCompleted(command("send", "--to", address, ...vm.flags), relay, receiver);
    assertVm(copy);
  });

  for (const link of [LINK, ["--compression", "none"], ["--compression", "lz4", "--channels", "1"]]) {
    it(`passes a VM on as multifd packets between two relays, ${link.join(" ")}`, async () => {
      const copy = storedVm(dir, "copy");
      const receiver = command("receive", "--listen", unix("in.sock"), ...copy.flags);
      const { relays, address } = await startPair(await listening(receiver), link);
      const sender = command("send", "--to", address, "--connections", "4", ...vm.flags);
      await assertCompleted(sender, ...relays, receiver);
      assertVm(copy);
    });
  }

  it("passes on how the guest is handed over, and refuses what the destination's release cannot do", async () => {
    const copy = storedVm(dir, "copy");
    const receiver = command("receive", "--listen", unix("in.sock"), ...copy.flags);
    const { relays, address } = await startPair(await listening(receiver));
    await assertCompleted(command("send", "--to", address, "--leave-paused", ...vm.flags), ...relays, receiver);
    const old = command("receive", "--listen", unix("old.sock"), ...storedVm(dir, "old").flags);
    const { relay, address: first } = await startRelay("c.sock", await listening(old), "--release", "v28");
    const sender = command("send", "--to", first, "--leave-paused", ...vm.flags);
    assert.equal((await relay.outcome).last.code, "CLOUD_HYPERVISOR_TERMS");
    assert.equal((await sender.outcome).last.code, "PEER_REFUSED");
    assert.equal((await old.outcome).last.event, "failed");
  });

  /** The sender hears Error, and everybody fails; the receiver with `code`. */
  async function assertRefused(sender: MultifdProcess, relays: readonly MultifdProcess[]): Promise<void> {
    assert.equal((await sender.outcome).last.code, "PEER_REFUSED", JSON.stringify((await sender.outcome).last));
    for (const relay of relays) assert.equal((await relay.outcome).last.event, "failed");
  }

  it("answers Config, through both relays, with the destination's refusal", async () => {
    const receiver = command("receive", "--listen", unix("in.sock"), ...storedVm(dir, "copy").flags.slice(2));
    const { relays, address } = await startPair(await listening(receiver));
    const sender = command("send", "--to", address, ...vm.flags);
    await assertRefused(sender, relays);
    assert.match((await sender.outcome).last.message ?? "", /config/);
    assert.equal((await receiver.outcome).last.code, "RAM_BLOCK_UNNAMED");
  });

  it("answers the end, through both relays, with the destination's refusal of State", async () => {
    writeFileSync(vm.state, STATE.slice(0, -1));
    mkdirSync(join(dir, "snapshot"));
    const receiver = command("receive", "--listen", unix("in.sock"), "--out", join(dir, "snapshot"));
    const { relays, address } = await startPair(await listening(receiver));
    await assertRefused(command("send", "--to", address, ...vm.flags), relays);
    assert.equal((await receiver.outcome).last.code, "JSON_SYNTAX");
    assert.deepEqual(readdirSync(join(dir, "snapshot")), []);
  });

  it("fails at every end when nobody is at the last, or the relay before it is killed", async () => {
    const { relays, address } = await startPair(unix("nobody.sock"));
    await assertRefused(command("send", "--to", address, ...vm.flags), relays);
    assert.equal((await relays[1]!.outcome).last.code, "CONNECT_FAILED");

    const receiver = command("receive", "--listen", unix("in.sock"), ...storedVm(dir, "copy").flags);
    const pair = await startPair(await listening(receiver));
    // Slow enough to be caught on its way.
    const sender = command("send", "--to", pair.address, ...vm.flags, "--max-bandwidth", "4M");
    await receiver.waitFor(({ event }) => event === "connected");
    process.kill(pair.relays[1]!.pid, "SIGKILL");
    assert.equal((await sender.outcome).last.event, "failed");
    assert.equal((await pair.relays[0]!.outcome).last.event, "failed");
    assert.equal((await receiver.outcome).last.event, "failed");
    assert.deepEqual(
      readdirSync(dir).filter((name) => name.startsWith("copy")),
      [],
    );
  });

  it("leaves everybody in doubt, and nobody resumed, when the destination goes away at the last command", async () => {
    const forgetful = await startForgetful(join(dir, "in.sock"));
    try {
      const { relays, address } = await startPair(unix("in.sock"));
      const processes = [command("send", "--to", address, ...vm.flags), ...relays];
      for (const process of processes) {
        const { last } = await process.outcome;
        assert.equal(last.code, "ACKNOWLEDGEMENT_LOST", JSON.stringify(last));
      }
    } finally {
      forgetful.close();
    }
  });

  it("refuses descriptors, and multifd packets that carry no Cloud Hypervisor guest", async () => {
    const receiver = command("receive", "--listen", unix("in.sock"), ...storedVm(dir, "copy").flags);
    const to = await listening(receiver);
    const { relay, address } = await startRelay("a.sock", to);
    const sender = command("send", "--to", address, "--memory", "descriptors", ...vm.flags);
    assert.equal((await relay.outcome).last.code, "RELAY_DESCRIPTORS");
    assert.equal((await sender.outcome).last.code, "PEER_REFUSED");
    assert.equal((await receiver.outcome).last.event, "failed");

    const last = await startRelay("b.sock", to, "--listen-protocol", "multifd");
    const foreign = new MultifdProcess("send", "--to", last.address, "--ram", `pc.ram=${vm.low}`);
    assert.equal((await last.relay.outcome).last.event, "failed");
    assert.equal((await foreign.outcome).last.event, "failed");
  });
});

const REQUEST_BYTES = 16;
const MEMORY = 4;
const COMPLETE = 5;
const OK = Buffer.from("01000000000000000000000000000000", "hex");

/** A destination that takes everything, and closes where the last answer is due. */
async function startForgetful(path: string): Promise<Server> {
  const server = createServer((socket) => {
    let came = Buffer.alloc(0);
    let skip = 0;
    socket.on("error", () => {});
    socket.on("data", (bytes) => {
      came = Buffer.concat([came, bytes]);
      for (;;) {
        const skipped = Math.min(skip, came.length);
        came = came.subarray(skipped);
        skip -= skipped;
        if (skip > 0 || came.length < REQUEST_BYTES) return;
        const length = Number(came.readBigUInt64LE(8));
        const isMemory = came.readUInt16LE(0) === MEMORY;
        if (came.readUInt16LE(0) === COMPLETE) {
          socket.destroy();
          return;
        }
        if (isMemory && came.length < REQUEST_BYTES + length) return;
        skip = REQUEST_BYTES + length + (isMemory ? ramBytes(came.subarray(REQUEST_BYTES, REQUEST_BYTES + length)) : 0);
        socket.write(OK);
      }
    });
  });
  server.listen(path);
  await once(server, "listening");
  return server;
}

/** What follows a range table. */
function ramBytes(table: Buffer): number {
  let bytes = 0;
  for (let at = 8; at < table.length; at += 16) bytes += Number(table.readBigUInt64LE(at));
  return bytes;
}
