import assert from "node:assert/strict";
import { composeConfig, vmConfigOf } from "./configuration-text.js";
import { readSavedMemory, unsavedRam } from "./saved-memory.js";
import { findStateNode, readStateTree } from "./state-tree.js";
import { versionedMemoryJson } from "./versioned-memory.js";

const encode = (text: string) => Buffer.from(text, "utf8");
const bytesOf = (text: string) => JSON.stringify([...encode(text)]);

/** Two runs around a hole, and a device's block that is not plugged in. */
const MEMORY =
  '{"memory_ranges":{"data":[{"gpa":4294967296,"length":8192},{"gpa":0,"length":4096}]},"guest_ram_mappings":[' +
  '{"slot":0,"gpa":0,"size":4096,"zone_id":"mem0","virtio_mem":false,"file_offset":0},' +
  '{"slot":1,"gpa":4294967296,"size":8192,"zone_id":"mem0","virtio_mem":false,"file_offset":4096},' +
  '{"slot":2,"gpa":8589934592,"size":2097152,"zone_id":"mem0","virtio_mem":true,"file_offset":0}],' +
  '"start_of_device_area":9223372036854775809,"boot_ram":12288,"current_ram":12288,' +
  '"arch_mem_regions":[{"base":0,"size":4096,"r_type":"Ram"},{"base":3221225472,"size":1073741824,"r_type":"Reserved"}],' +
  '"hotplug_slots":[{"base":1,"length":2,"active":true,"inserting":false,"removing":true}],' +
  '"next_memory_slot":3,"selected_slot":0,"next_hotplug_slot":0}';
const VM = '{"clock":{"clock":9223372036854775809},"common_cpuid":[{"function":7, "eax":4294967295}]}';

/** The same as MEMORY, as a release up to 38.0 serializes it. */
function versionedSection(): Buffer {
  const u64 = (...values: bigint[]) => {
    const out = Buffer.alloc(8 * values.length);
    for (const [i, value] of values.entries()) out.writeBigUInt64LE(value, 8 * i);
    return out;
  };
  const u32 = (value: number) => {
    const out = Buffer.alloc(4);
    out.writeUInt32LE(value);
    return out;
  };
  const mapping = (slot: number, gpa: bigint, size: bigint, virtio: number, offset: bigint) =>
    Buffer.concat([u32(slot), u64(gpa, size, 4n), encode("mem0"), Buffer.of(virtio), u64(offset)]);
  return Buffer.concat([
    u64(2n, 4294967296n, 8192n, 0n, 4096n),
    u64(3n),
    mapping(0, 0n, 4096n, 0, 0n),
    mapping(1, 4294967296n, 8192n, 0, 4096n),
    mapping(2, 8589934592n, 2097152n, 1, 0n),
    u64(9223372036854775809n, 12288n, 12288n),
    u64(2n, 0n, 4096n),
    u32(0),
    u64(3221225472n, 1073741824n),
    u32(2),
    u64(1n, 1n, 2n),
    Buffer.of(1, 0, 1),
    u32(3),
    u64(0n, 0n),
  ]);
}

const STATES: readonly (readonly [release: string, text: string])[] = [
  [
    "from 39.0",
    `{"snapshots":{"cpu-manager":{"snapshots":{"0":{"snapshots":{},"snapshot_data":{"state":"{}"}}},"snapshot_data":null},"memory-manager":{"snapshots":{},"snapshot_data":{"state":${JSON.stringify(MEMORY)}}}},"snapshot_data":{"state":${JSON.stringify(VM)}}}`,
  ],
  [
    "29.0 to 38.0",
    `{"snapshots":{"cpu-manager":{"snapshots":{"0":{"snapshots":{},"snapshot_data":[123,125]}},"snapshot_data":null},"memory-manager":{"snapshots":{},"snapshot_data":${JSON.stringify([...versionedSection()])}}},"snapshot_data":${bytesOf(VM)}}`,
  ],
  [
    "up to 28.0",
    `{"id":"vm","snapshots":{"cpu-manager":{"id":"cpu-manager","snapshots":{"0":{"id":"0","snapshots":{},"snapshot_data":{"0-section":{"id":"0-section","snapshot":[123,125]}}}},"snapshot_data":{}},"memory-manager":{"id":"memory-manager","snapshots":{},"snapshot_data":{"memory-manager-section":{"id":"memory-manager-section","snapshot":${JSON.stringify([...versionedSection()])}}}}},"snapshot_data":{"vm-section":{"id":"vm-section","snapshot":${bytesOf(VM)}}}}`,
  ],
];

describe("Cloud Hypervisor's State", () => {
  for (const [release, text] of STATES) {
    it(`is read as releases ${release} write it`, () => {
      const tree = readStateTree(encode(text));
      assert.deepEqual(
        tree.children.map(({ name }) => name),
        ["cpu-manager", "memory-manager"],
      );
      assert.equal(tree.data[0]!.content, VM);
      assert.equal(findStateNode(tree, "cpu-manager", "0")!.data[0]!.content, "{}");
      assert.equal(findStateNode(tree, "cpu-manager", "1"), null);
      const memory = readSavedMemory(tree);
      assert.equal(memory.text, MEMORY);
      assert.deepEqual(memory.ranges, [
        { gpa: 4294967296n, lengthBytes: 8192n },
        { gpa: 0n, lengthBytes: 4096n },
      ]);
      assert.deepEqual(unsavedRam(memory), []);
    });

    it(`makes the Config of a migration together with a VM's configuration, of releases ${release}`, () => {
      const vmConfig = encode('{"cpus":{"boot_vcpus":1},\n "odd":9223372036854775809,"name":"ü"}');
      const config = composeConfig(vmConfig, readStateTree(encode(text)));
      assert.equal(
        Buffer.from(config).toString(),
        `{"vm_config":${vmConfig},"common_cpuid":[{"function":7, "eax":4294967295}],"memory_manager_data":${MEMORY}}`,
      );
      assert.deepEqual(Buffer.from(vmConfigOf(config)), vmConfig);
    });
  }

  it("takes a component's bytes that only begin like JSON for what they are", () => {
    const tree = readStateTree(encode('{"snapshots":{},"snapshot_data":[123,0,255]}'));
    assert.deepEqual(tree.data, [{ section: null, content: Uint8Array.of(123, 0, 255) }]);
  });

  it("is refused where it is no tree of components", () => {
    const cases: readonly (readonly [string, string])[] = [
      ["[]", "STATE_SHAPE"],
      ['{"snapshots":[]}', "STATE_SHAPE"],
      ['{"snapshots":{"a":1}}', "STATE_SHAPE"],
      ['{"snapshots":{},"snapshot_data":7}', "STATE_SHAPE"],
      ['{"snapshots":{},"snapshot_data":[256]}', "STATE_SHAPE"],
      ['{"snapshots":{},"snapshot_data":[1.5]}', "STATE_SHAPE"],
      ['{"snapshots":{},"snapshot_data":{"x-section":{"id":"x-section"}}}', "STATE_SHAPE"],
      ['{"snapshots":{', "JSON_SYNTAX"],
      ['{"snapshots":'.repeat(300), "JSON_TOO_LARGE"],
    ];
    for (const [text, code] of cases) assert.throws(() => readStateTree(encode(text)), { code }, text.slice(0, 80));
    assert.throws(() => readStateTree(Uint8Array.of(0x7b, 0xff, 0x7d)), { code: "WIRE_TEXT" });
  });
});

describe("What the memory manager saved", () => {
  const saved = (memory: string) =>
    readSavedMemory(
      readStateTree(
        encode(`{"snapshots":{"memory-manager":{"snapshots":{},"snapshot_data":{"state":${JSON.stringify(memory)}}}}}`),
      ),
    );
  const ranges = (...data: readonly (readonly [gpa: string, length: string])[]) =>
    `{"memory_ranges":{"data":[${data.map(([gpa, length]) => `{"gpa":${gpa},"length":${length}}`).join(",")}]},"guest_ram_mappings":[{"gpa":0,"size":16384,"zone_id":"mem0"}]}`;

  it("tells which RAM has its bytes elsewhere", () => {
    assert.deepEqual(unsavedRam(saved(ranges())), [{ gpa: 0n, lengthBytes: 16384n }]);
    assert.deepEqual(unsavedRam(saved(ranges(["4096", "4096"], ["12288", "4096"]))), [
      { gpa: 0n, lengthBytes: 4096n },
      { gpa: 8192n, lengthBytes: 4096n },
    ]);
    assert.deepEqual(unsavedRam(saved(ranges(["8192", "8192"], ["0", "8192"]))), []);
  });

  it("is refused where ranges overlap, are empty, pass 2^64 or are no numbers", () => {
    const cases = [
      ranges(["0", "8192"], ["4096", "4096"]),
      ranges(["0", "0"]),
      ranges(["18446744073709551615", "2"]),
      ranges(["-1", "4096"]),
      ranges(["1.5", "4096"]),
      ranges(["18446744073709551616", "1"]),
      ranges(['"0"', "1"]),
      "{}",
      "[]",
    ];
    for (const text of cases) assert.throws(() => saved(text), { code: "MEMORY_DATA" }, text);
    assert.equal(saved(ranges(["18446744073709551615", "1"])).ranges[0]!.gpa, 2n ** 64n - 1n);
    assert.throws(() => saved('{"memory_ranges":'), { code: "JSON_SYNTAX", message: /memory manager/ });
  });

  it("is refused where there is no memory manager", () => {
    assert.throws(() => readSavedMemory(readStateTree(encode('{"snapshots":{}}'))), { code: "MEMORY_DATA" });
  });

  it("is refused in its binary form at every byte where it ends early, and where it goes on", () => {
    const section = versionedSection();
    for (let end = 0; end < section.length; end++)
      assert.throws(() => versionedMemoryJson(section.subarray(0, end)), { code: "MEMORY_DATA" }, `cut at ${end}`);
    assert.throws(() => versionedMemoryJson(Buffer.concat([section, Buffer.of(0)])), { code: "MEMORY_DATA" });
    const huge = Buffer.from(section);
    huge.writeBigUInt64LE(2n ** 40n, 0);
    assert.throws(() => versionedMemoryJson(huge), { code: "MEMORY_DATA" });
  });
});

describe("A Config without what a snapshot needs", () => {
  it("is refused", () => {
    assert.throws(() => vmConfigOf(encode('{"common_cpuid":[]}')), { code: "CONFIG_SHAPE" });
    assert.throws(() => vmConfigOf(encode('{"vm_config":')), { code: "JSON_SYNTAX", message: /Config/ });
    const tree = readStateTree(encode(STATES[0]![1]));
    assert.throws(() => composeConfig(encode("{"), tree), { code: "JSON_SYNTAX", message: /configuration/ });
  });
});
