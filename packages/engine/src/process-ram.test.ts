/** Lines as Linux 6.18 shows them of QEMU 7.2 and 11.1. */
import assert from "node:assert/strict";
import { closeSync, mkdtempSync, openSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describeRamBlock } from "@multifd/memory";
import { fileIdentity, findRam, parseMappings } from "./process-ram.js";

const MIB = 2 ** 20;

describe("RAM in another process", () => {
  let dir: string;
  let descriptor: number;
  beforeEach(() => {
    dir = mkdtempSync(join(tmpdir(), "multifd-"));
    writeFileSync(join(dir, "ram"), "");
    descriptor = openSync(join(dir, "ram"), "r");
  });
  afterEach(() => {
    closeSync(descriptor);
    rmSync(dir, { recursive: true });
  });
  /** A mapping of the file: [address, length, offset in the file] in MiB. */
  const line = ([at, length, offset]: readonly number[], rights = "rw-s") => {
    const hex = (mib: number) => (mib * MIB).toString(16).padStart(8, "0");
    return `${hex(at!)}-${hex(at! + length!)} ${rights} ${hex(offset!)} ${fileIdentity(descriptor)}    /dev/shm/a b (deleted)`;
  };
  const find = (lines: readonly string[], offsetMib = 0) => {
    const block = describeRamBlock("pc.ram", 16 * MIB, 4096)!;
    return findRam(7, parseMappings(lines.join("\n")), { block, descriptor, offsetBytes: offsetMib * MIB });
  };

  it("is read from the kernel's lines: files only, named or not", () => {
    const mappings = parseMappings(
      [
        "55d0c0000000-55d0c0a00000 r-xp 00400000 fe:00 1311 /usr/bin/qemu-system-x86_64",
        "7f0000000000-7f0002000000 rw-s 00000000 00:01 2051 /memfd:memory-backend-memfd (deleted)",
        "7ffd00000000-7ffd00021000 rw-p 00000000 00:00 0    [stack]",
        "7ffd00030000-7ffd00031000 rw-p 00000000 00:00 0 ",
        "",
      ].join("\n"),
    );
    assert.deepEqual(
      mappings.map(({ path, shared, writable, file }) => [path, shared, writable, file]),
      [
        ["/usr/bin/qemu-system-x86_64", false, false, "fe:00 1311"],
        ["/memfd:memory-backend-memfd (deleted)", true, true, "00:01 2051"],
      ],
    );
    assert.equal(mappings[1]!.lengthBytes, 32 * MIB);
  });

  it("is known by device and inode", () => {
    assert.match(fileIdentity(descriptor), new RegExp(`^[0-9a-f]{2,}:[0-9a-f]{2,} ${statSync(join(dir, "ram")).ino}$`));
  });

  it("may lie in pieces, of which one is mapped twice", () => {
    const { runs, mappings } = find([line([64, 8, 0]), line([128, 8, 8]), line([256, 4, 6])]);
    assert.equal(mappings.length, 3);
    assert.deepEqual(
      runs.map((run) => [run.address / MIB, run.lengthBytes / MIB, run.blockOffsetBytes / MIB]),
      [
        [64, 8, 0],
        [128, 8, 8],
        [256, 4, 6],
      ],
    );
  });

  it("may begin within a mapping and within its file", () => {
    const { runs } = find([line([64, 32, 4])], 8);
    assert.deepEqual(runs, [{ address: 68 * MIB, lengthBytes: 16 * MIB, blockOffsetBytes: 0 }]);
  });

  it("is refused where some of it is not mapped", () => {
    for (const lines of [
      [line([64, 8, 0])],
      [line([64, 8, 0]), line([128, 4, 12])],
      [line([64, 12, 4])],
      [line([64, 8, 0]), line([128, 8, 8], "rw-p")],
      [line([64, 8, 0]), line([128, 8, 8], "r--s")],
    ]) {
      assert.throws(() => find(lines), { code: "RAM_PARTLY_MAPPED" });
    }
  });

  it("is refused where it is private, or another file", () => {
    assert.throws(() => find([line([64, 16, 0], "rw-p")]), { code: "RAM_NOT_SHARED" });
    assert.throws(() => find(["7f0000000000-7f0001000000 rw-s 00000000 00:01 2051 /memfd:x (deleted)"]), {
      code: "RAM_NOT_MAPPED",
    });
  });
});
