import assert from "node:assert/strict";
import { describeRamBlock } from "@multifd/memory";
import { closeDescriptor, createMemfd, mapFile, unmap, writeMemory } from "@multifd/native";
import { findDifferentPage } from "./compare-ram.js";

describe("comparing two guests' RAM", () => {
  const block = describeRamBlock("guest.ram", 9 * 2 ** 20, 4096)!;
  const descriptors: number[] = [];
  beforeEach(() => {
    for (let i = 0; i < 2; i++) descriptors.push(createMemfd("compare", block.lengthBytes));
  });
  afterEach(() => {
    for (const descriptor of descriptors.splice(0)) closeDescriptor(descriptor);
  });

  function put(descriptor: number, offset: number): void {
    const mapping = mapFile(descriptor, { lengthBytes: block.lengthBytes, writable: true });
    writeMemory(mapping, offset, Uint8Array.of(7));
    unmap(mapping);
  }

  it("finds nothing where every byte is the same", async () => {
    for (const descriptor of descriptors) put(descriptor, 12345);
    assert.equal(await findDifferentPage(block, descriptors[0]!, descriptors[1]!), null);
  });

  it("names the first page that differs by one byte, wherever it lies", async () => {
    for (const offset of [block.lengthBytes - 1, 4 * 2 ** 20, 4 * 2 ** 20 - 1, 4096, 0]) {
      put(descriptors[1]!, offset);
      assert.equal(await findDifferentPage(block, descriptors[0]!, descriptors[1]!), Math.floor(offset / 4096));
    }
  });
});
