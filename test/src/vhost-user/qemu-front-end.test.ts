/**
 * QEMU 11.1 as the front-end of our back-end: it starts a VM on it, and migrates it to a second one with its state.
 *
 * vhost-user-fs is the device whose back-end's state QEMU carries along; what sits behind the socket is nobody's
 * business but the guest driver's, so the entropy device with its counters serves there too.
 */
import assert from "node:assert/strict";
import { join } from "node:path";
import { BackEnd, type BackEndEvent, RngDevice } from "@multifd/peer-vhost-user";
import { createScratchDir, QemuProcess, removeScratchDir } from "../peers/index.js";

const RAM_BYTES = 64 * 2 ** 20;

describe("QEMU 11.1 as the front-end of our back-end", () => {
  let dir: string;
  const closers: (() => unknown)[] = [];
  before(() => {
    dir = createScratchDir();
  });
  afterEach(async () => {
    for (const close of closers.splice(0).reverse()) await close();
  });
  after(() => removeScratchDir(dir));

  async function serve(name: string, device: RngDevice): Promise<{ path: string; events: BackEndEvent[] }> {
    const path = join(dir, name);
    const events: BackEndEvent[] = [];
    const backEnd = await BackEnd.listen(path, device, (event) => events.push(event));
    closers.push(() => backEnd.close());
    return { path, events };
  }

  async function boot(name: string, device: string, socket: string, incoming?: "defer"): Promise<QemuProcess> {
    const vm = await QemuProcess.start({
      version: "11.1",
      machine: "q35",
      memory: [{ id: "pc.ram", path: join(dir, `${name}.ram`), bytes: RAM_BYTES }],
      ...(incoming && { incoming }),
      extraArgs: ["-chardev", `socket,id=c,path=${socket}`, "-device", `${device},chardev=c`],
    });
    closers.push(() => vm.stop());
    return vm;
  }

  it("starts a VM on it", async () => {
    const { path, events } = await serve("rng", new RngDevice());
    const vm = await boot("rng", "vhost-user-rng-pci", path);
    assert.equal(await vm.runState(), "running");
    assert.deepEqual(
      events.map(({ kind }) => kind),
      ["connected"],
    );
    await vm.stop();
  });

  it("migrates to a second QEMU with a second back-end, and the state arrives", async () => {
    const before = new RngDevice(2);
    before.loadState(countedState(1234, 567_890));
    const after = new RngDevice(2);
    const source = await serve("source", before);
    const destination = await serve("destination", after);
    const from = await boot("source", "vhost-user-fs-pci,tag=t", source.path);
    const to = await boot("destination", "vhost-user-fs-pci,tag=t", destination.path, "defer");
    for (const vm of [from, to]) await vm.setMigration({ channels: 2 });
    const uri = `unix:${join(dir, "migration")}`;
    await to.listen(uri);
    await from.migrateTo(uri);
    const outcomes = [await from.waitMigration(), await to.waitMigration()];
    assert.deepEqual(
      outcomes.map(({ status, error }) => [status, error]),
      [
        ["completed", null],
        ["completed", null],
      ],
    );
    assert.deepEqual(after.counters, { requests: 1234, bytes: 567_890 });
    const troubles = [...source.events, ...destination.events].filter(({ kind }) => kind !== "connected");
    assert.deepEqual(troubles, []);
  });

  it("fails the migration when the second back-end refuses the state, and the first VM goes on", async () => {
    const source = await serve("source2", new RngDevice(2));
    const refusing = new RngDevice(2);
    refusing.loadState = () => {
      throw new Error("not here");
    };
    const destination = await serve("destination2", refusing);
    const from = await boot("source2", "vhost-user-fs-pci,tag=t", source.path);
    const to = await boot("destination2", "vhost-user-fs-pci,tag=t", destination.path, "defer");
    for (const vm of [from, to]) await vm.setMigration({ channels: 2 });
    const uri = `unix:${join(dir, "migration2")}`;
    await to.listen(uri);
    await from.migrateTo(uri);
    assert.equal((await from.waitMigration()).status, "failed");
    assert.equal(await from.runState(), "running");
    assert.deepEqual(
      destination.events.map(({ kind }) => kind).filter((kind) => kind === "state-failed"),
      ["state-failed"],
    );
  });
});

function countedState(requests: number, bytes: number): Uint8Array {
  const state = Buffer.alloc(24);
  state.write("VRNG");
  state.writeUInt32LE(1, 4);
  state.writeBigUInt64LE(BigInt(requests), 8);
  state.writeBigUInt64LE(BigInt(bytes), 16);
  return state;
}
