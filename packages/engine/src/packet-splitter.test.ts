import assert from "node:assert/strict";
import { createPageMap, PACKET_KIND } from "@multifd/dataplane";
import { DirtyBitmap, describeRamBlock } from "@multifd/memory";
import type { RamSource } from "./guest.js";
import { splitPackets } from "./packet-splitter.js";

const PAGES = 100;
const PAGES_MAX = 8;
const block = describeRamBlock("pc.ram", PAGES * 4096, 4096)!;
const plain: RamSource = { block, descriptor: -1, offsetBytes: 0 };

function bitmap(pages: readonly number[]): DirtyBitmap {
  const bits = new DirtyBitmap(PAGES);
  for (const page of pages) bits.set(page);
  return bits;
}

/** All packets: their kind, and what their slot holds. */
function split(ram: RamSource, dirty: DirtyBitmap): [kind: number, words: number[]][] {
  const packets: [number, number[]][] = [];
  const slot = new Uint32Array(4 + PAGES_MAX);
  for (const splitter of splitPackets(ram, dirty, PAGES_MAX)) {
    for (let count = splitter.next(slot, 4); count > 0; count = splitter.next(slot, 4)) {
      assert.ok(count <= PAGES_MAX);
      packets.push([splitter.kind, [...slot.subarray(4, 4 + count)]]);
    }
  }
  assert.equal(dirty.count(), 0, "nothing is left");
  return packets;
}

describe("packet splitter", () => {
  it("lists dirty pages of guest RAM in order, for a channel to look at", () => {
    const packets = split(plain, bitmap([1, 2, 3, 40, 41, 42, 43, 44, 99]));
    assert.deepEqual(packets, [
      [PACKET_KIND.ram, [1, 2, 3, 40, 41, 42, 43, 44]],
      [PACKET_KIND.ram, [99]],
    ]);
  });

  it("takes the pages that a snapshot does not hold for zeros, unseen", () => {
    const packets = split({ ...plain, present: bitmap([2, 40, 50]) }, bitmap([1, 2, 3, 40]));
    assert.deepEqual(packets, [
      [PACKET_KIND.ram, [2, 40]],
      [PACKET_KIND.zeroPages, [1, 3]],
    ]);
  });

  it("gives every frame of a compressed snapshot once, in the order of the file, with the pages that count in it", () => {
    const pageMap = createPageMap(PAGES);
    const units = new Uint32Array(pageMap);
    for (const [page, unit] of [
      [0, 300],
      [1, 7],
      [2, 300],
      [3, 7],
      [4, 4_000_000_000],
      [5, 300],
    ] as const)
      units[page] = unit;
    const packets = split({ ...plain, pageMap }, bitmap([0, 1, 2, 3, 4, 5, 6, 98]));
    assert.deepEqual(packets, [
      [PACKET_KIND.frame, [7, 2]],
      [PACKET_KIND.frame, [300, 3]],
      [PACKET_KIND.frame, [4_000_000_000, 1]],
      [PACKET_KIND.zeroPages, [6, 98]],
    ]);
  });
});
