import assert from "node:assert/strict";
import { readMemoryMappings } from "./memory-configuration.js";

const utf8 = new TextEncoder();
function config(manager: string): Uint8Array {
  return utf8.encode(`{"vm_config":{"cpus":{"boot_vcpus":1}},"common_cpuid":[],"memory_manager_data":${manager}}`);
}
function mapping(gpa: bigint | number, size: bigint | number, more = ""): string {
  return `{"slot":0,"gpa":${gpa},"size":${size},"zone_id":"mem0","virtio_mem":false,"file_offset":0${more}}`;
}

describe("memory mappings of a Config", () => {
  it("are read in their order, exact up to 2^64", () => {
    const text = `{"guest_ram_mappings":[
      {"slot":1,"gpa":4294967296,"size":1073741824,"zone_id":"mem0","virtio_mem":false,"file_offset":3221225472},
      {"slot":0,"gpa":0,"size":3221225472,"zone_id":"mem0","virtio_mem":false,"file_offset":0},
      {"slot":7,"gpa":9223372036854775809,"size":4096,"zone_id":"far","virtio_mem":true,"file_offset":0}],
      "memory_ranges":{"data":[]}}`;
    assert.deepEqual(readMemoryMappings(config(text)), [
      { slot: 1, gpa: 2n ** 32n, lengthBytes: 2n ** 30n, zone: "mem0", fileOffsetBytes: 3n * 2n ** 30n },
      { slot: 0, gpa: 0n, lengthBytes: 3n * 2n ** 30n, zone: "mem0", fileOffsetBytes: 0n },
      { slot: 7, gpa: 2n ** 63n + 1n, lengthBytes: 4096n, zone: "far", fileOffsetBytes: 0n },
    ]);
  });

  it("come from memory_ranges where there are no others", () => {
    assert.deepEqual(readMemoryMappings(config('{"memory_ranges":{"data":[{"gpa":4096,"length":8192}]}}')), [
      { slot: null, gpa: 4096n, lengthBytes: 8192n, zone: "", fileOffsetBytes: 0n },
    ]);
  });

  const wrong: readonly (readonly [what: string, bytes: Uint8Array, code: string])[] = [
    ["text that is no JSON", utf8.encode("{"), "CONFIG_JSON"],
    ["bytes that are no text", Uint8Array.of(0xff, 0xfe), "CONFIG_JSON"],
    ["nesting without an end", utf8.encode("[".repeat(100_000)), "CONFIG_JSON"],
    ["a value that is no object", utf8.encode("5"), "CONFIG_MEMORY"],
    ["no memory at all", config("{}"), "CONFIG_MEMORY"],
    ["an empty mapping", config(`{"guest_ram_mappings":[${mapping(0, 0)}]}`), "CONFIG_MEMORY"],
    ["a negative address", config(`{"guest_ram_mappings":[${mapping(-1, 1)}]}`), "CONFIG_MEMORY"],
    ["a fraction", config(`{"guest_ram_mappings":[{"slot":0,"gpa":0.5,"size":1}]}`), "CONFIG_MEMORY"],
    ["a mapping past 2^64", config(`{"guest_ram_mappings":[${mapping(2n ** 64n - 1n, 2)}]}`), "CONFIG_MEMORY"],
    ["a size of 2^64", config(`{"guest_ram_mappings":[${mapping(0, 2n ** 64n)}]}`), "CONFIG_MEMORY"],
    [
      "mappings that overlap",
      config(`{"guest_ram_mappings":[${mapping(0, 8192)},${mapping(4096, 8192)}]}`),
      "CONFIG_MEMORY",
    ],
  ];
  for (const [what, bytes, code] of wrong) {
    it(`refuse ${what}`, () => assert.throws(() => readMemoryMappings(bytes), { code }));
  }
});
