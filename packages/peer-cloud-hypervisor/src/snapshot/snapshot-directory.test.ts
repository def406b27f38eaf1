import assert from "node:assert/strict";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, statSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { HIGH, LOW, memoryText, stateText, VM_CONFIG } from "./fixture.js";
import { openSnapshotDirectory } from "./snapshot-directory.js";

describe("A snapshot directory of Cloud Hypervisor", () => {
  let dir = "";
  const file = (name: string) => join(dir, name);
  beforeEach(() => {
    dir = mkdtempSync(join(tmpdir(), "multifd-ch-"));
    writeFileSync(file("config.json"), VM_CONFIG);
    writeFileSync(file("state.json"), stateText(memoryText([HIGH, LOW])));
    writeFileSync(file("memory-ranges"), Buffer.alloc(HIGH.length + LOW.length, 7));
  });
  afterEach(() => rmSync(dir, { recursive: true, force: true }));

  const refused = (code: string, message: RegExp) => assert.rejects(openSnapshotDirectory(dir), { code, message });

  it("has its RAM where the ranges of its state say, one behind the other", async () => {
    const snapshot = await openSnapshotDirectory(dir);
    assert.deepEqual(snapshot.ranges, [
      { gpa: 2n ** 32n, lengthBytes: HIGH.length, fileOffsetBytes: 0 },
      { gpa: 0n, lengthBytes: LOW.length, fileOffsetBytes: HIGH.length },
    ]);
    assert.deepEqual(snapshot.unsaved, []);
    assert.equal(Buffer.from(snapshot.vmConfig).toString(), VM_CONFIG);
    assert.deepEqual(Buffer.from(snapshot.state), readFileSync(file("state.json")));
    await snapshot.close();
  });

  it("needs no memory file where every zone has one of its own, and tells what is not in it", async () => {
    writeFileSync(file("state.json"), stateText(memoryText([])));
    rmSync(file("memory-ranges"));
    const snapshot = await openSnapshotDirectory(dir);
    assert.equal(snapshot.file, null);
    assert.deepEqual(
      snapshot.unsaved.map(({ gpa }) => gpa),
      [0n, 2n ** 32n],
    );
    await snapshot.close();
  });

  for (const name of ["config.json", "state.json", "memory-ranges"]) {
    it(`is seen as cut short without ${name}`, async () => {
      rmSync(file(name));
      await refused("SNAPSHOT_CUT", new RegExp(name));
    });

    it(`is seen as cut short where ${name} is empty`, async () => {
      truncateSync(file(name), 0);
      await refused("SNAPSHOT_CUT", new RegExp(name));
    });
  }

  it("is seen as cut short at every length of its memory file, and as damaged beyond", async () => {
    const { size } = statSync(file("memory-ranges"));
    for (const length of [1, 4096, size - 1]) {
      truncateSync(file("memory-ranges"), length);
      await refused("SNAPSHOT_CUT", new RegExp(`has ${length} bytes, state.json lists ${size}`));
    }
    truncateSync(file("memory-ranges"), size + 1);
    await refused("SNAPSHOT_DAMAGED", /memory-ranges/);
  });

  it("is refused where its JSON is cut at any byte, with the file", async () => {
    for (const name of ["config.json", "state.json"]) {
      const whole = readFileSync(file(name));
      for (let end = 1; end < whole.length; end += 7) {
        writeFileSync(file(name), whole.subarray(0, end));
        await refused("JSON_SYNTAX", name === "state.json" ? /state\.json/ : /configuration/);
      }
      writeFileSync(file(name), whole);
    }
  });

  it("is refused where two of its ranges overlap", async () => {
    writeFileSync(file("state.json"), stateText(memoryText([LOW, { gpa: 4096, length: 8192 }])));
    await refused("MEMORY_DATA", /overlap at 0x1000/);
  });

  it("is not mistaken for one where the directory holds something else", async () => {
    for (const name of ["config.json", "state.json", "memory-ranges"]) rmSync(file(name));
    await refused("SNAPSHOT_MAGIC", /no snapshot of Cloud Hypervisor/);
    writeFileSync(file("vm.json"), "{}");
    await refused("SNAPSHOT_VERSION", /before 22\.0/);
    rmSync(dir, { recursive: true });
    await refused("SYSTEM_ENOENT", /ENOENT/);
    mkdirSync(dir);
  });
});
