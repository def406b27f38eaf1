import assert from "node:assert/strict";
import fc from "fast-check";
import { formatBytes, formatMs, formatRate, parseBytes } from "./quantities.js";

describe("quantities", () => {
  it("reads sizes with the suffixes that QEMU takes, powers of 1024", () => {
    assert.deepEqual(["0", "4096", "64K", "100M", "1.5G", "2T", "1GiB", "1gb", "10B"].map(parseBytes), [
      0,
      4096,
      65536,
      104857600,
      1610612736,
      2 * 2 ** 40,
      2 ** 30,
      2 ** 30,
      10,
    ]);
  });

  it("refuses what is not a whole number of bytes below 2^53", () => {
    for (const text of [
      "",
      "M",
      "-1",
      "1e9",
      "0x10",
      "1.0000001M",
      "0.3K",
      "1 G",
      "5X",
      "9007199254740993",
      "9999999T",
    ]) {
      assert.equal(parseBytes(text), null, text);
    }
  });

  it("reads back every whole number it is given in plain digits", () => {
    fc.assert(fc.property(fc.maxSafeNat(), (bytes) => parseBytes(String(bytes)) === bytes));
  });

  it("writes three figures and the unit that fits them", () => {
    assert.deepEqual([0, 999, 1000, 1536, 1023.7 * 1024, 2 ** 30, 4.5 * 2 ** 40, 5000 * 2 ** 40].map(formatBytes), [
      "0 B",
      "999 B",
      "0.98 KiB",
      "1.50 KiB",
      "1.00 MiB",
      "1.00 GiB",
      "4.50 TiB",
      "5000 TiB",
    ]);
    assert.deepEqual([0, 5e6, 999.4e6, 1.25e9].map(formatRate), ["0.00 MB/s", "5.00 MB/s", "999 MB/s", "1.25 GB/s"]);
    assert.deepEqual([0.04, 12.3, 840, 999.9, 1240, 200_000].map(formatMs), [
      "0.0 ms",
      "12 ms",
      "840 ms",
      "1.00 s",
      "1.24 s",
      "3 min 20 s",
    ]);
  });
});
