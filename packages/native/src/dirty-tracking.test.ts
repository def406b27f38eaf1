import assert from "node:assert/strict";
import { fork } from "node:child_process";
import { once } from "node:events";
import { closeSync, openSync } from "node:fs";
import { fileURLToPath } from "node:url";
import fc from "fast-check";
import { exchangeBitmap, exchangeMappedBitmap, harvestDirty, probeTracking } from "./dirty-tracking.js";
import { createMemfd, mapFile, readMemory, unmap, writeMemory } from "./mapping.js";
import { closeDescriptor } from "./sockets.js";

const pageBytes = 4096;

describe("bitmap exchange", () => {
  it("moves every bit once, and adds to what is there", () => {
    const words = fc.uint8Array({ minLength: 4, maxLength: 64 }).map((b) => b.slice(0, b.length - (b.length % 4)));
    fc.assert(
      fc.property(words, fc.infiniteStream(fc.nat(255)), (bits, others) => {
        const bitmap = new Uint8Array(new SharedArrayBuffer(bits.length));
        bitmap.set(bits);
        const before = bits.map(() => others.next().value as number);
        const out = before.slice();
        let count = 0;
        for (const byte of bits) for (let bit = 0; bit < 8; bit++) count += (byte >> bit) & 1;
        assert.equal(exchangeBitmap(bitmap, out), count);
        assert.deepEqual(
          [...out],
          [...before].map((byte, i) => byte | bits[i]!),
        );
        assert.ok(bitmap.every((byte) => byte === 0));
      }),
    );
  });

  it("takes bits from a mapping, where another process sets them", () => {
    const fd = createMemfd("log", 4096);
    const mapping = mapFile(fd, { lengthBytes: 4096, writable: true });
    writeMemory(mapping, 100, Uint8Array.of(0b101));
    const out = new Uint8Array(4096);
    assert.equal(exchangeMappedBitmap(mapping, out), 2);
    assert.equal(out[100], 0b101);
    const left = new Uint8Array(1);
    readMemory(mapping, 100, left);
    assert.equal(left[0], 0);
    unmap(mapping);
    closeDescriptor(fd);
  });

  it("refuses bitmaps that are no whole words, unaligned, or longer than the output", () => {
    const defect = { name: "AssertionError" };
    assert.throws(() => exchangeBitmap(new Uint8Array(7), new Uint8Array(8)), defect);
    assert.throws(() => exchangeBitmap(new Uint8Array(new ArrayBuffer(9), 1, 8), new Uint8Array(8)), defect);
    assert.throws(() => exchangeBitmap(new Uint8Array(8), new Uint8Array(4)), defect);
  });
});

describe("dirty tracking of another process", () => {
  const lengthBytes = 1024 * pageBytes;
  before(() => {
    const probe = probeTracking();
    assert.ok(probe.ok, probe.ok ? "" : `this kernel lacks ${probe.missing} (${probe.errno})`);
  });

  it("reports each page written once, at any page size, and keeps bits already set", async () => {
    const fd = createMemfd("tracked", lengthBytes);
    const writer = fork(fileURLToPath(new URL("./fixture-writer.js", import.meta.url)), [
      `/proc/${process.pid}/fd/${fd}`,
      String(lengthBytes),
    ]);
    const ended = once(writer, "exit");
    const [address] = (await once(writer, "message")) as [number];
    const pagemap = openSync(`/proc/${writer.pid}/pagemap`, "r");
    const write = async (pages: readonly number[]) => {
      writer.send(pages.map((page) => page * pageBytes + 5));
      await once(writer, "message");
    };
    const harvest = (bitmap: Uint8Array, size = pageBytes) => harvestDirty(pagemap, address, lengthBytes, size, bitmap);
    const bits = (bitmap: Uint8Array) =>
      Array.from({ length: bitmap.length * 8 }, (_, i) => i).filter((i) => (bitmap[i >> 3]! >> (i & 7)) & 1);

    harvest(new Uint8Array(128));
    const pages = [0, 1, 2, 17, 500, 1023];
    await write(pages);
    const bitmap = new Uint8Array(128);
    assert.equal(harvest(bitmap), pages.length);
    assert.deepEqual(bits(bitmap), pages);

    // The same pages, written before, are found again; a harvest without writes finds none.
    assert.equal(harvest(bitmap), 0);
    await write([17, 600]);
    assert.equal(harvest(bitmap), 2);
    assert.deepEqual(bits(bitmap), [0, 1, 2, 17, 500, 600, 1023]);

    await write([16, 17, 32]);
    const coarse = new Uint8Array(8);
    assert.equal(harvest(coarse, 65536), 2);
    assert.deepEqual(bits(coarse), [1, 2]);

    // More regions than one call of the kernel returns.
    const even = Array.from({ length: 512 }, (_, i) => 2 * i);
    const odd = even.map((page) => page + 1);
    await write(even);
    assert.equal(harvest(new Uint8Array(128)), 512);
    await write([...odd, ...even.slice(0, 300)]);
    assert.equal(harvest(new Uint8Array(128)), 812);

    assert.throws(() => harvest(new Uint8Array(127)), { name: "AssertionError" });
    assert.throws(() => harvest(bitmap, 1000), { name: "AssertionError" });
    closeSync(pagemap);
    writer.disconnect();
    await ended;
    closeDescriptor(fd);
  });

  it("refuses memory that nobody registered", () => {
    const fd = createMemfd("plain", 4096);
    const mapping = mapFile(fd, { lengthBytes: 4096, writable: true });
    const pagemap = openSync("/proc/self/pagemap", "r");
    assert.throws(() => harvestDirty(pagemap, mapping.address, 4096, pageBytes, new Uint8Array(1)), {
      name: "SystemError",
      code: "SYSTEM_EPERM",
    });
    closeSync(pagemap);
    unmap(mapping);
    closeDescriptor(fd);
  });
});
