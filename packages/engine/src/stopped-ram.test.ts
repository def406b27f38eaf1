import assert from "node:assert/strict";
import { mkdtempSync, openSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describeRamBlock } from "@multifd/memory";
import { filesLeftOpen, openFiles } from "@multifd/native/fixture-open-files";
import { StoppedRam } from "./stopped-ram.js";

const NOTHING_ELSE = { kept: [], blockNames: [] };

describe("stopped RAM", () => {
  let dir: string;
  const file = (name: string, bytes: number) => {
    writeFileSync(join(dir, name), new Uint8Array(bytes));
    return join(dir, name);
  };
  beforeEach(() => {
    dir = mkdtempSync(join(tmpdir(), "multifd-"));
  });
  afterEach(() => rmSync(dir, { recursive: true }));

  it("is one block per file, each as long as its file, in the order that the stream had", () => {
    const paths = new Map([
      ["m1", file("b", 8192)],
      ["m0", file("a", 4096)],
    ]);
    const kept = [
      { block: describeRamBlock("rom", 4096, 4096)!, descriptor: openSync(file("rom", 4096), "r"), offsetBytes: 0 },
    ];
    const guest = StoppedRam.open(paths, 4096, { kept, blockNames: ["m0", "rom", "m1"] });
    assert.deepEqual(
      guest.ram.map(({ block }) => [block.name, block.pageCount]),
      [
        ["m0", 1],
        ["rom", 1],
        ["m1", 2],
      ],
    );
    guest.close();
  });

  it("lies at the destination one block behind the other, in the order named, where both share the files", () => {
    const paths = new Map([
      ["m1", file("b", 8192)],
      ["m0", file("a", 4096)],
    ]);
    const kept = [
      { block: describeRamBlock("rom", 4096, 4096)!, descriptor: openSync(file("rom", 4096), "r"), offsetBytes: 0 },
    ];
    const guest = StoppedRam.open(paths, 4096, { kept, blockNames: ["m0", "rom", "m1"] }, "shared");
    assert.deepEqual(
      guest.ram.map(({ block, sharedAt }) => [block.name, sharedAt]),
      [
        ["m0", 8192],
        ["rom", undefined],
        ["m1", 0],
      ],
    );
    guest.close();
  });

  it("refuses a file that is no whole number of pages, or missing, and leaves none open", async () => {
    const before = openFiles();
    const good = file("good", 4096);
    for (const [path, code] of [
      [file("odd", 5000), "RAM_SIZE"],
      [file("empty", 0), "RAM_SIZE"],
      [join(dir, "missing"), "SYSTEM_ENOENT"],
    ] as const) {
      const paths = new Map([
        ["m0", good],
        ["m1", path],
      ]);
      assert.throws(() => StoppedRam.open(paths, 4096, NOTHING_ELSE), { code, message: /RAM block "m1"/ });
    }
    assert.deepEqual(await filesLeftOpen(before), []);
  });
});
