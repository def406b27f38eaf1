import assert from "node:assert/strict";
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { configText, type FixtureRange, HIGH, LOW, mappingsOf, memoryText, stateText, VM_CONFIG } from "./fixture.js";
import { openSnapshotDirectory } from "./snapshot-directory.js";
import { SnapshotWriter } from "./snapshot-writer.js";

const bytes = (text: string) => Buffer.from(text, "utf8");

describe("Writing a snapshot directory of Cloud Hypervisor", () => {
  let dir = "";
  let out = "";
  beforeEach(() => {
    dir = mkdtempSync(join(tmpdir(), "multifd-ch-"));
    out = join(dir, "snapshot");
  });
  afterEach(() => rmSync(dir, { recursive: true, force: true }));

  /** RAM in which each page bears the number of its guest frame. */
  async function receive(mapped: readonly FixtureRange[]): Promise<SnapshotWriter> {
    const writer = await SnapshotWriter.create(out);
    const { descriptor, offsets } = await writer.placeRam(mappingsOf(mapped));
    for (const [i, { gpa, length }] of mapped.entries())
      for (let at = 0; at < length; at += 4096) {
        const page = Buffer.alloc(4096);
        page.writeBigUInt64LE(BigInt(gpa + at) + 1n);
        writeSync(descriptor, page, 0, 4096, offsets[i]! + at);
      }
    return writer;
  }

  const frames = (path: string) => {
    const memory = readFileSync(path);
    return Array.from({ length: memory.length / 4096 }, (_, page) => Number(memory.readBigUInt64LE(4096 * page)) - 1);
  };

  it("keeps Config's VM and State to the byte, and RAM in State's order where that is Config's", async () => {
    const writer = await receive([LOW, HIGH]);
    const state = stateText(memoryText([LOW, HIGH]));
    await writer.finish(bytes(configText(memoryText([]))), bytes(state));
    assert.deepEqual(readdirSync(dir), ["snapshot"]);
    assert.deepEqual(readdirSync(out).sort(), ["config.json", "memory-ranges", "state.json"]);
    assert.equal(readFileSync(join(out, "config.json"), "utf8"), VM_CONFIG);
    assert.equal(readFileSync(join(out, "state.json"), "utf8"), state);
    assert.deepEqual(frames(join(out, "memory-ranges")), [0, 4096, 8192, 2 ** 32, 2 ** 32 + 4096]);
    await (await openSnapshotDirectory(out)).close();
  });

  it("brings RAM into State's order where that is another, and leaves out what is not plugged in", async () => {
    const plugged = { gpa: 2 ** 33 + 4096, length: 4096 };
    const device = { gpa: 2 ** 33, length: 4 * 4096, virtioMem: true };
    const writer = await receive([LOW, device, HIGH]);
    const memory = memoryText([plugged, HIGH, LOW], [LOW, device, HIGH]);
    await writer.finish(bytes(configText(memoryText([]))), bytes(stateText(memory)));
    const expected = [plugged.gpa, 2 ** 32, 2 ** 32 + 4096, 0, 4096, 8192];
    assert.deepEqual(frames(join(out, "memory-ranges")), expected);
    assert.deepEqual(readdirSync(out).sort(), ["config.json", "memory-ranges", "state.json"]);
    await (await openSnapshotDirectory(out)).close();
  });

  it("keeps the holes of RAM that was never written", async () => {
    for (const order of [
      [LOW, { gpa: 2 ** 32, length: 2 ** 24 }],
      [{ gpa: 2 ** 32, length: 2 ** 24 }, LOW],
    ]) {
      const writer = await SnapshotWriter.create(out);
      const mapped = [LOW, { gpa: 2 ** 32, length: 2 ** 24 }];
      const { descriptor } = await writer.placeRam(mappingsOf(mapped));
      writeSync(descriptor, "x", 5000);
      await writer.finish(bytes(configText("{}")), bytes(stateText(memoryText(order, mapped))));
      const { size, blocks } = statSync(join(out, "memory-ranges"));
      assert.equal(size, LOW.length + 2 ** 24);
      assert.ok(blocks * 512 <= 2 ** 21, `${blocks} blocks of storage for one byte`);
      rmSync(out, { recursive: true });
    }
  });

  it("goes into an empty directory, and into no other", async () => {
    mkdirSync(out);
    const writer = await receive([LOW, HIGH]);
    await writer.finish(bytes(configText("{}")), bytes(stateText(memoryText([LOW, HIGH]))));
    await assert.rejects(SnapshotWriter.create(out), { code: "OUT_EXISTS" });
    await assert.rejects(SnapshotWriter.create(join(out, "config.json")), { code: "OUT_EXISTS" });
  });

  it("makes no directory above it", async () => {
    await assert.rejects(SnapshotWriter.create(join(dir, "absent", "snapshot")), { code: "SYSTEM_ENOENT" });
    assert.deepEqual(readdirSync(dir), []);
  });

  it("clears what an earlier attempt left, and nothing else", async () => {
    mkdirSync(`${out}.partial`);
    writeFileSync(join(`${out}.partial`, "memory-ranges"), "old");
    const writer = await receive([LOW, HIGH]);
    await writer.discard();
    assert.deepEqual(readdirSync(dir), []);
    mkdirSync(`${out}.partial`);
    writeFileSync(join(`${out}.partial`, "precious"), "");
    await assert.rejects(SnapshotWriter.create(out), { code: "OUT_EXISTS", message: /precious/ });
    assert.ok(existsSync(join(`${out}.partial`, "precious")));
  });

  it("refuses a State that leaves RAM out, lists RAM that Config has not, or is none", async () => {
    const cases: readonly (readonly [string, string, string])[] = [
      [configText("{}"), stateText(memoryText([LOW])), "SNAPSHOT_RAM_ELSEWHERE"],
      [configText("{}"), stateText(memoryText([LOW, HIGH, { gpa: 2 ** 34, length: 4096 }])), "SNAPSHOT_RANGE"],
      [configText("{}"), '{"snapshots":{}}', "MEMORY_DATA"],
      [configText("{}"), "{", "JSON_SYNTAX"],
      ["{}", stateText(memoryText([LOW, HIGH])), "CONFIG_SHAPE"],
    ];
    for (const [config, state, code] of cases) {
      const writer = await receive([LOW, HIGH]);
      await assert.rejects(writer.finish(bytes(config), bytes(state)), { code });
      await writer.discard();
      assert.deepEqual(readdirSync(dir), [], code);
    }
  });
});
