import assert from "node:assert/strict";
import { mkdtempSync, readdirSync, readlinkSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { SavedGuest } from "@multifd/engine";
import { describeRamBlock } from "@multifd/memory";
import { closeDescriptor, createMemfd, mapFile, readMemory, unmap, writeMemory } from "@multifd/native";
import { emptyVmDescription, encodeConfiguration, encodeStreamEnd } from "@multifd/protocol";
import { readDeviceFile, writeDeviceFile } from "./device-file.js";

const PAGE = 4096;
const RAM_BYTES = 64 * PAGE;
const ram = describeRamBlock("pc.ram", RAM_BYTES, PAGE)!;
const rom = describeRamBlock("pc.rom", 1000 * PAGE, PAGE)!;
/** Pages of the ROM that hold something: behind holes, and on both sides of what is written at once. */
const FILLED = [1, 7, 255, 256, 900, 999] as const;
const zeros = describeRamBlock("/rom@etc/tables", 2 * PAGE, PAGE)!;

const mark = (page: number) => (page % 255) + 1;

describe("device file", () => {
  let dir: string;
  let saved: SavedGuest;
  const path = (name: string) => join(dir, name);
  const descriptors: number[] = [];
  const memory = (bytes: number) => {
    descriptors.push(createMemfd("test", bytes));
    return descriptors.at(-1)!;
  };

  beforeEach(() => {
    dir = mkdtempSync(join(tmpdir(), "multifd-"));
    const kept = [rom, zeros].map((block) => ({ block, descriptor: memory(block.lengthBytes) }));
    const mapping = mapFile(kept[0]!.descriptor, { lengthBytes: rom.lengthBytes, writable: true });
    for (const page of FILLED) writeMemory(mapping, page * PAGE, new Uint8Array(PAGE).fill(mark(page)));
    unmap(mapping);
    const devices = {
      machineType: "pc-i440fx-11.1",
      ramSectionId: 3,
      configuration: encodeConfiguration({ machineType: "pc-i440fx-11.1" }),
      sections: encodeStreamEnd(emptyVmDescription(PAGE)),
    };
    saved = { devices, blocks: [rom, ram, zeros], kept };
  });
  afterEach(() => {
    for (const descriptor of descriptors.splice(0)) closeDescriptor(descriptor);
    rmSync(dir, { recursive: true });
  });

  it("gives back the device part, the blocks kept in it and their bytes", async () => {
    await writeDeviceFile(path("devices"), saved);
    assert.deepEqual(readdirSync(dir), ["devices"]);
    const file = await readDeviceFile(path("devices"), new Map([["pc.ram", RAM_BYTES]]));
    descriptors.push(...file.kept.map(({ descriptor }) => descriptor));
    assert.deepEqual({ ...file.devices }, { ...saved.devices });
    assert.deepEqual([file.pageBytes, file.blockNames], [PAGE, ["pc.rom", "pc.ram", "/rom@etc/tables"]]);
    assert.deepEqual(
      file.kept.map(({ block }) => block),
      [rom, zeros],
      "a block of zeros is kept too",
    );
    const bytes = new Uint8Array(rom.lengthBytes);
    const mapping = mapFile(file.kept[0]!.descriptor, { lengthBytes: rom.lengthBytes, writable: false });
    readMemory(mapping, 0, bytes);
    unmap(mapping);
    const due = new Uint8Array(rom.lengthBytes);
    for (const page of FILLED) due.fill(mark(page), page * PAGE, (page + 1) * PAGE);
    assert.ok(Buffer.from(bytes).equals(due));
  });

  for (const [what, named, code, message] of [
    ["a RAM file that is not named", [], "RAM_BLOCK_MISSING", /"pc.ram" is in a file of its own; name it with --ram/],
    ["a RAM file of another size", [["pc.ram", PAGE]], "RAM_SIZE_MISMATCH", /"pc.ram" has 262144 bytes, .* has 4096/],
    [
      "a name that it does not know",
      [
        ["pc.ram", RAM_BYTES],
        ["m0", PAGE],
      ],
      "RAM_BLOCK_UNKNOWN",
      /no RAM block "m0"; there are "pc.rom", "pc.ram"/,
    ],
  ] as const) {
    it(`refuses ${what}, and says where`, async () => {
      await writeDeviceFile(path("devices"), saved);
      await assert.rejects(readDeviceFile(path("devices"), new Map(named)), { name: "ConfigError", code, message });
      const open = readdirSync("/proc/self/fd").map((fd) => readlinkOrNothing(`/proc/self/fd/${fd}`));
      assert.deepEqual(
        open.filter((target) => target.includes("multifd:kept")),
        [],
        "what it kept is closed",
      );
    });
  }

  it("refuses a file that is no whole stream, by its path", async () => {
    writeFileSync(path("cut"), Buffer.from("QEVM"));
    const message = new RegExp(`^${path("cut")}: `);
    await assert.rejects(readDeviceFile(path("cut"), new Map()), { code: "STREAM_CUT", message });
  });

  it("leaves nothing behind that it could not write whole", async () => {
    await assert.rejects(writeDeviceFile(path("no/such/devices"), saved), { code: "SYSTEM_ENOENT" });
    const gone = { ...saved, kept: [{ block: rom, descriptor: 1_000_000 }] };
    await assert.rejects(writeDeviceFile(path("devices"), gone));
    assert.deepEqual(readdirSync(dir), []);
  });
});

/** A listing's own descriptor is gone by the time it is looked at. */
function readlinkOrNothing(path: string): string {
  try {
    return readlinkSync(path);
  } catch {
    return "";
  }
}
