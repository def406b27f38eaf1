import assert from "node:assert/strict";
import { mkdtempSync, openSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { hugePageBytes, punchFile, reserveFile, seekData } from "./files.js";
import { createMemfd, mapFile, readMemory, unmap, writeMemory } from "./mapping.js";
import { closeDescriptor } from "./sockets.js";

const folder = mkdtempSync(join(tmpdir(), "multifd-mapping-"));
after(() => rmSync(folder, { recursive: true }));

describe("mapping", () => {
  it("shows a file's bytes from an offset, and writes reach the file", () => {
    const path = join(folder, "file");
    writeFileSync(path, Buffer.concat([Buffer.alloc(4096, 1), Buffer.alloc(4096, 2)]));
    const fd = openSync(path, "r+");
    const whole = mapFile(fd, { lengthBytes: 8192, writable: true });
    const second = mapFile(fd, { lengthBytes: 4096, offsetBytes: 4096, writable: false });
    closeDescriptor(fd);
    const out = new Uint8Array(2);
    readMemory(second, 4094, out);
    assert.deepEqual([...out], [2, 2]);
    writeMemory(whole, 4096, Uint8Array.of(7));
    readMemory(second, 0, out);
    assert.deepEqual([...out], [7, 2]);
    unmap(whole);
    unmap(second);
  });

  it("never reaches past the file's end", () => {
    const fd = createMemfd("short", 8192);
    const refusal = { name: "AssertionError", message: /outside/ };
    assert.throws(() => mapFile(fd, { lengthBytes: 8193, writable: true }), refusal);
    assert.throws(() => mapFile(fd, { lengthBytes: 8192, offsetBytes: 4096, writable: true }), refusal);
    closeDescriptor(fd);
  });

  it("refuses reads and writes that leave it", () => {
    const fd = createMemfd("small", 4096);
    const mapping = mapFile(fd, { lengthBytes: 4096, writable: true });
    for (const [offset, bytes] of [
      [4096, 1],
      [4095, 2],
      [2 ** 53 - 1, 1],
      [-1, 1],
      [0.5, 1],
      [Number.NaN, 1],
    ] as const) {
      assert.throws(() => readMemory(mapping, offset, new Uint8Array(bytes)), { name: "AssertionError" });
      assert.throws(() => writeMemory(mapping, offset, new Uint8Array(bytes)), { name: "AssertionError" });
    }
    readMemory(mapping, 4096, new Uint8Array(0));
    unmap(mapping);
    closeDescriptor(fd);
  });

  it("says why the system refuses", () => {
    assert.throws(() => mapFile(-1, { lengthBytes: 4096, writable: true }), {
      name: "SystemError",
      code: "SYSTEM_EBADF",
      message: "mapping 4096 bytes of descriptor -1 from offset 0: bad file descriptor (EBADF)",
    });
    const fd = openSync(join(folder, "file"), "r");
    assert.throws(() => mapFile(fd, { lengthBytes: 4096, writable: true }), { code: "SYSTEM_EACCES" });
    closeDescriptor(fd);
  });
});

describe("memory files", () => {
  it("find data between holes, and free it again", () => {
    const fd = createMemfd("sparse", 1 << 20);
    assert.equal(seekData(fd, 0), null);
    const mapping = mapFile(fd, { lengthBytes: 1 << 20, writable: true });
    writeMemory(mapping, 65536, Uint8Array.of(1));
    assert.equal(seekData(fd, 0), 65536);
    assert.equal(seekData(fd, 65537), 65537);
    assert.equal(seekData(fd, 65536 + 4096), null);
    punchFile(fd, 65536, 4096);
    const out = Uint8Array.of(9);
    readMemory(mapping, 65536, out);
    assert.equal(out[0], 0);
    unmap(mapping);
    closeDescriptor(fd);
  });

  it("reserve storage without changing what is read", () => {
    const path = join(folder, "reserved");
    writeFileSync(path, "abc");
    const fd = openSync(path, "r+");
    reserveFile(fd, 1 << 20);
    assert.ok(statSync(path).blocks * 512 >= 1 << 20);
    closeDescriptor(fd);
  });

  it("tell huge pages from ordinary files", () => {
    const plain = createMemfd("plain", 4096);
    assert.equal(hugePageBytes(plain), 0);
    const huge = createMemfd("huge", 0, 2 << 20);
    assert.equal(hugePageBytes(huge), 2 << 20);
    closeDescriptor(plain);
    closeDescriptor(huge);
  });

  it("refuse a huge page size that does not exist", () => {
    assert.throws(() => createMemfd("odd", 4096, 12345), { name: "AssertionError" });
  });
});
