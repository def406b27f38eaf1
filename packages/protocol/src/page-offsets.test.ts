import assert from "node:assert/strict";
import fc from "fast-check";
import { checkNoDuplicates, putPageOffsets, takePageOffsets } from "./page-offsets.js";

const PAGE = 4096;

function viewWith(...offsets: readonly bigint[]): DataView {
  const view = new DataView(new ArrayBuffer(8 * offsets.length));
  offsets.forEach((offset, i) => {
    view.setBigUint64(8 * i, offset);
  });
  return view;
}

describe("page offsets", () => {
  it("are read back as the page indexes that were written, up to the last page of 16 TiB", () => {
    const any = fc.uint32Array({ maxLength: 128 });
    fc.assert(
      fc.property(any, (pages) => {
        const view = new DataView(new ArrayBuffer(8 * pages.length + 8));
        putPageOffsets(view, 8, pages, 0, pages.length, PAGE);
        pages.forEach((page, i) => {
          assert.equal(view.getBigUint64(8 + 8 * i), BigInt(page) * 4096n);
        });
        const out = new Uint32Array(pages.length);
        takePageOffsets(view, 8, pages.length, PAGE, 2 ** 44, "ram", out, 0);
        assert.deepEqual(out, pages);
      }),
    );
  });

  it("are written from the middle of a list and read into the middle of another", () => {
    const view = new DataView(new ArrayBuffer(16));
    putPageOffsets(view, 0, Uint32Array.of(1, 2, 3, 4), 1, 2, 65536);
    const out = new Uint32Array(4);
    takePageOffsets(view, 0, 2, 65536, 2 ** 20, "ram", out, 1);
    assert.deepEqual(out, Uint32Array.of(0, 2, 3, 0));
  });

  it("reject an offset that is no multiple of the page size", () => {
    assert.throws(() => takePageOffsets(viewWith(0n, 4097n), 0, 2, PAGE, 2 ** 20, "ram", new Uint32Array(2), 0), {
      code: "MULTIFD_OFFSET_UNALIGNED",
      message: /page offset 0x1001 in RAM block "ram"/,
    });
  });

  for (const offset of [0x40000000n, 2n ** 53n, 2n ** 64n - 4096n])
    it(`reject offset 0x${offset.toString(16)} in a block of 1 GiB, and say it exactly`, () => {
      assert.throws(() => takePageOffsets(viewWith(offset), 0, 1, PAGE, 2 ** 30, "pc.ram", new Uint32Array(1), 0), {
        code: "MULTIFD_OFFSET_OUTSIDE",
        message: `page offset 0x${offset.toString(16)} lies past the end of RAM block "pc.ram" (0x40000000 bytes); start both VMs with the same memory size`,
      });
    });

  it("reject every offset in an empty block", () => {
    const code = "MULTIFD_OFFSET_OUTSIDE";
    assert.throws(() => takePageOffsets(viewWith(0n), 0, 1, PAGE, 0, "ram", new Uint32Array(1), 0), { code });
  });
});

describe("pages of one packet", () => {
  it("are refused exactly if one of them occurs twice", () => {
    const any = fc.array(fc.nat({ max: 300 }), { maxLength: 128 });
    fc.assert(
      fc.property(any, (list) => {
        const pages = Uint32Array.from(list);
        const check = () => checkNoDuplicates(pages, pages.length, new Uint32Array(128));
        if (new Set(list).size === list.length) check();
        else assert.throws(check, { code: "MULTIFD_DUPLICATE_PAGE" });
        assert.deepEqual([...pages], list);
      }),
    );
  });

  it("are compared up to their count only", () => {
    checkNoDuplicates(Uint32Array.of(5, 3, 5, 5), 2, new Uint32Array(2));
  });
});
