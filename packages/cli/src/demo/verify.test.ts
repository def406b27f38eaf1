import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { collectDeviceState } from "@multifd/engine";
import { mapFile, readMemory, unmap, writeMemory } from "@multifd/native";
import { GuestSocket } from "../guest-socket.js";
import { GUEST_STATE, LiveGuest } from "../live-guest.js";
import { GuestProcess } from "./guest-process.js";
import { verifyMigration } from "./verify.js";

const RAM_BYTES = 4 * 2 ** 20;

describe("verifying a migration", () => {
  let directory = "";
  let source: LiveGuest;
  const processes: GuestProcess[] = [];
  beforeEach(async () => {
    directory = mkdtempSync(join(tmpdir(), "multifd-verify-"));
    for (const incoming of [false, true]) {
      const socketPath = join(directory, String(incoming));
      processes.push(await GuestProcess.start({ socketPath, ramBytes: RAM_BYTES, rate: 1e7, incoming }));
    }
    source = await LiveGuest.open(processes[0]!.address);
  });
  afterEach(async () => {
    source.close();
    for (const guest of processes.splice(0)) await guest.end();
    rmSync(directory, { recursive: true });
  });

  /** Moves the guest by hand; `spoil` sees the bytes on their way. */
  async function move(spoil: (ram: Uint8Array) => void): Promise<GuestProcess> {
    await source.pause();
    const state = await collectDeviceState(GUEST_STATE, source.devices[0]!.save(), 2 ** 20);
    const socket = await GuestSocket.connect(processes[1]!.address);
    const ram = Buffer.alloc(RAM_BYTES);
    const from = mapFile(source.ram[0]!.descriptor, { lengthBytes: RAM_BYTES, writable: false });
    const to = mapFile(socket.descriptors[0]!, { lengthBytes: RAM_BYTES, writable: true });
    readMemory(from, 0, ram);
    spoil(ram);
    writeMemory(to, 0, ram);
    await socket.load(state);
    await socket.run();
    for (const mapping of [from, to]) unmap(mapping);
    socket.close();
    return processes[1]!;
  }

  it("passes when every byte arrived and the guest runs on", async () => {
    assert.deepEqual(await verifyMigration(source, await move(() => {}), true), { pages: RAM_BYTES / 4096 });
  });

  it("fails for one wrong byte, and names its page", async () => {
    const destination = await move((ram) => {
      ram[700 * 4096 + 3]! ^= 0x80;
    });
    await assert.rejects(verifyMigration(source, destination, true), { code: "DEMO_MISMATCH", message: /page 700/ });
  });

  it("fails when the guest still runs at the source", async () => {
    const destination = await move(() => {});
    await source.resume();
    await assert.rejects(verifyMigration(source, destination, true), { code: "DEMO_RUNS_TWICE" });
  });
});
