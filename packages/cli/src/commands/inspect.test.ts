import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { gunzipSync } from "node:zlib";
import { runCommandLine } from "../program.js";
import { recordingTerminal } from "../recording-terminal.js";

/** A main channel as QEMU sent it: packages/protocol/vectors/README.md says how it was recorded. */
function recorded(version: string): Buffer {
  return gunzipSync(readFileSync(new URL(`../../../protocol/vectors/${version}/main.bin.gz`, import.meta.url)));
}

describe("multifd inspect", () => {
  let directory = "";
  beforeEach(() => {
    directory = mkdtempSync(join(tmpdir(), "multifd-inspect-"));
  });
  afterEach(() => {
    rmSync(directory, { recursive: true });
  });

  const file = (name: string, bytes: Uint8Array) => {
    writeFileSync(join(directory, name), bytes);
    return join(directory, name);
  };

  async function run(...words: string[]) {
    const terminal = recordingTerminal();
    const code = await runCommandLine(["inspect", ...words], terminal);
    return { code, out: terminal.outText(), err: terminal.errText() };
  }

  const inspect = (bytes: Uint8Array, ...flags: string[]) => run(file("main.bin", bytes), ...flags);

  for (const [version, machineType, runstateBytes] of [
    ["qemu-7.2", "pc-i440fx-7.2", 100],
    ["qemu-11.1", "pc-i440fx-11.1", 32],
  ] as const)
    it(`tells as JSON all that ${version} sent, every byte of it`, async () => {
      const bytes = recorded(version);
      const { code, out, err } = await inspect(bytes, "--json");
      assert.deepEqual([code, err], [0, ""]);
      const seen = JSON.parse(out);
      assert.deepEqual(
        [seen.event, seen.machineType, seen.pageBytes, seen.fileBytes],
        ["completed", machineType, 4096, bytes.length],
      );
      assert.deepEqual(seen.unaccounted, []);
      assert.ok(seen.blocks.some((block: { name: string }) => block.name === "pc.bios"));
      const sectionBytes = seen.devices.reduce(
        (sum: number, each: { lengthBytes: number }) => sum + each.lengthBytes,
        0,
      );
      assert.ok(seen.devices.length >= 20 && sectionBytes < seen.deviceBytes);
      const runState = seen.devices.at(-1).state.fields.find((field: { name: string }) => field.name === "runstate");
      assert.equal(runState.bytes, Buffer.concat([Buffer.from("prelaunch")], runstateBytes).toString("hex"));
      assert.equal(bytes.toString("latin1", runState.at, runState.at + 9), "prelaunch");
    });

  it("tells people the same as a tree", async () => {
    const { code, out } = await inspect(recorded("qemu-11.1"));
    assert.equal(code, 0);
    assert.match(out, /^machine type {3}pc-i440fx-11\.1$/m);
    assert.match(out, /^ {2}pc\.bios +256 KiB +\d+ +\d+ +\d+/m);
    assert.match(
      out,
      /^cpu {2}instance 0, version 12, \d+ bytes at 0x[0-9a-f]+\n {2}env\.regs +\[16\] 0 ×2, 0x[0-9a-f]+,/m,
    );
    assert.match(out, /^ {2}env\.eip +65520 \(0xfff0\)$/m);
    assert.match(out, /^ {2}runstate +"prelaunch" \(32 bytes\)$/m);
    assert.match(out, /\nevery one of \d+ bytes is accounted for\n$/);
  });

  it("lists devices alone with --depth 0, and only those that --device names", async () => {
    const bytes = recorded("qemu-7.2");
    const table = await inspect(bytes, "--depth", "0");
    assert.match(table.out, /^ {2}cpu_common +0 +1 +\d+$/m);
    assert.ok(!table.out.includes("env.regs"));
    const few = JSON.parse((await inspect(bytes, "--json", "--device", "i82")).out);
    assert.deepEqual(
      few.devices.map(({ name }: { name: string }) => name),
      ["i8259", "i8259", "i8254"],
    );
    const none = await inspect(bytes, "--device", "e1000");
    assert.equal(none.code, 1);
    assert.match(none.err, /no device with "e1000" in its name; there are timer, .*\[DEVICE_UNKNOWN\]/);
  });

  it("fails where the file is cut, names file and byte, and tells what came before", async () => {
    const bytes = recorded("qemu-7.2");
    const cut = await inspect(bytes.subarray(0, bytes.length - 100), "--json");
    assert.equal(cut.code, 1);
    const seen = JSON.parse(cut.out);
    assert.deepEqual([seen.event, seen.code, seen.machineType], ["failed", "STREAM_CUT", "pc-i440fx-7.2"]);
    assert.match(cut.err, /main\.bin: main channel, byte \d+/);
    const early = await inspect(bytes.subarray(0, 2000));
    assert.equal(early.code, 1);
    assert.match(early.out, /^machine type {3}pc-i440fx-7\.2$/m);
    assert.match(early.err, /byte 2000: the stream ended inside RAM section/);
  });

  it("survives a cut anywhere and any file that is no stream", async () => {
    const bytes = recorded("qemu-11.1");
    for (let at = 0; at < bytes.length; at += 4999) assert.equal((await inspect(bytes.subarray(0, at))).code, 1);
    const { code, out, err } = await inspect(Buffer.from("hello, this is no stream"));
    assert.deepEqual([code, out], [1, ""]);
    assert.match(err, /"QEVM"\) was due; this is no QEMU migration stream \[STREAM_MAGIC\]/);
  });

  it("names the bytes that nothing accounts for, and shows the rest", async () => {
    const bytes = recorded("qemu-11.1");
    const cpuFooter = bytes.indexOf(Buffer.from("kvm-tpr-opt")) - 6 - 5;
    assert.equal(bytes[cpuFooter], 0x7e);
    bytes[cpuFooter] = 0x7f;
    const { code, out, err } = await inspect(bytes);
    assert.equal(code, 1);
    assert.match(out, /^globalstate {2}instance 0/m);
    assert.match(
      out,
      new RegExp(`not accounted for:\n  \\d+ bytes at 0x[0-9a-f]+, in cpu: .*byte ${cpuFooter}, section "cpu"`),
    );
    assert.match(err, /bytes are not accounted for, the first at byte \d+: .*\[BYTES_UNACCOUNTED\]/);
  });

  it("names bytes behind the end", async () => {
    const bytes = recorded("qemu-11.1");
    const { code, out } = await inspect(Buffer.concat([bytes, Buffer.from("more")]), "--json");
    const [behind] = JSON.parse(out).unaccounted;
    assert.deepEqual([code, behind.at, behind.lengthBytes, behind.section], [1, bytes.length, 4, null]);
  });

  it("looks into RAM files, and refuses one of another block or size", async () => {
    const bytes = recorded("qemu-11.1");
    const ram = Buffer.alloc(4 * 2 ** 20);
    for (let page = 0; page < 300; page++) ram.fill(`page ${page} `, page * 8192, page * 8192 + 4096);
    const path = file("ram", ram);
    const { code, out } = await inspect(bytes, "--json", "--ram", `ram=${path}`);
    assert.equal(code, 0);
    const block = JSON.parse(out).blocks.find(({ name }: { name: string }) => name === "ram");
    assert.deepEqual([block.from, block.dataPages, block.zeroPages, block.absentPages], [path, 300, 724, 0]);
    assert.equal(block.sample.sampledBytes, 300 * 4096);
    assert.ok(block.sample.compressedBytes > 0 && block.sample.compressedBytes < 300 * 400);
    const unknown = await inspect(bytes, "--ram", `other=${path}`);
    assert.match(unknown.err, /no RAM block "other"; there are "ram", .*\[RAM_BLOCK_UNKNOWN\]/);
    const short = await inspect(bytes, "--ram", `pc.bios=${path}`);
    assert.match(short.err, /"pc\.bios" has 262144 bytes, .*ram has 4194304; .*\[RAM_SIZE_MISMATCH\]/);
    const missing = await inspect(bytes, "--ram", `ram=${path}-not`);
    assert.match(missing.err, /RAM block "ram": ENOENT/);
  });

  it("says that a file is not there", async () => {
    const { code, err } = await run(join(directory, "none"));
    assert.equal(code, 1);
    assert.match(err, /none: ENOENT/);
  });

  describe("--diff", () => {
    it("finds nothing between a stream and itself", async () => {
      const path = file("a", recorded("qemu-11.1"));
      assert.deepEqual(await run("--diff", path, path), { code: 0, out: "no differences\n", err: "" });
      const { out } = await run("--diff", "--json", path, path);
      assert.deepEqual(JSON.parse(out), { event: "completed", a: path, b: path, same: true, differences: [] });
    });

    it("names machine type, devices and fields that differ, with both values", async () => {
      const [a, b] = [file("a", recorded("qemu-7.2")), file("b", recorded("qemu-11.1"))];
      const { code, out } = await run("--diff", a, b);
      assert.equal(code, 1);
      assert.match(out, /^machine type: pc-i440fx-7\.2 → pc-i440fx-11\.1$/m);
      assert.match(out, /^globalstate\n {2}runstate: "prelaunch" \(100 bytes\) → "prelaunch" \(32 bytes\)$/m);
      assert.match(out, /^ {2}has_vm_was_suspended: not there → 1$/m);
      const { differences, same } = JSON.parse((await run("--diff", "--json", a, b)).out);
      assert.equal(same, false);
      assert.deepEqual(differences[0], { what: "machine type", path: [], a: "pc-i440fx-7.2", b: "pc-i440fx-11.1" });
    });

    it("fails on a file that is not whole, rather than call it different", async () => {
      const bytes = recorded("qemu-11.1");
      const { code, err, out } = await run("--diff", file("a", bytes), file("b", bytes.subarray(0, 5000)));
      assert.deepEqual([code, out], [1, ""]);
      assert.match(err, /b: main channel, byte 5000: .*\[STREAM_CUT\]/);
    });

    it("takes two files, and no RAM", async () => {
      for (const words of [
        ["--diff", "a"],
        ["a", "b"],
        ["--diff", "a", "b", "--ram", "r=f"],
      ])
        assert.equal((await run(...words)).code, 2);
    });
  });

  describe("of a snapshot directory of Cloud Hypervisor", () => {
    const memory =
      '{"memory_ranges":{"data":[{"gpa":4294967296,"length":8192},{"gpa":0,"length":4096}]},"guest_ram_mappings":' +
      '[{"slot":0,"gpa":0,"size":4096,"zone_id":"mem0"},{"slot":1,"gpa":4294967296,"size":8192,"zone_id":"mem0"}]}';
    const state =
      '{"snapshots":{"device-manager":{"snapshots":{"_disk0":{"snapshots":{},"snapshot_data":{"state":' +
      '"{\\"features\\":9223372036854775809,\\"queues\\":[{\\"size\\":256}]}"}}},"snapshot_data":null},' +
      `"memory-manager":{"snapshots":{},"snapshot_data":{"state":${JSON.stringify(memory)}}}},"snapshot_data":null}`;

    beforeEach(() => {
      file(
        "config.json",
        Buffer.from('{"cpus":{"boot_vcpus":2},"disks":[{"id":"_disk0","serial":9223372036854775809}]}'),
      );
      file("state.json", Buffer.from(state));
      const ram = Buffer.alloc(3 * 4096);
      ram.fill("abc", 4096, 8192);
      file("memory-ranges", ram);
    });

    it("tells its configuration, ranges and components", async () => {
      const { code, out } = await run(directory);
      assert.equal(code, 0);
      assert.match(out, /form +Cloud Hypervisor snapshot/);
      assert.match(out, /boot_vcpus = 2/);
      assert.match(out, /0x100000000 +mem0 +8\.00 KiB +1 +1 +50\.0 % +[\d.]+ : 1/);
      assert.match(out, /0x0 +mem0 +4\.00 KiB +0 +1 +100\.0 % +-/);
      assert.match(out, /_disk0 .*\n +features = 9223372036854775809\n +queues\n +0\n +size = 256/);
    });

    it("lists the components alone at depth 0, and of those the ones named", async () => {
      const { out } = await run(directory, "--depth", "0", "--device", "_disk");
      assert.match(out, /components\n {2}vm\n {4}device-manager\n {6}_disk0 {2}\(\d+ bytes of JSON\)\n$/);
      const unknown = await run(directory, "--device", "tape");
      assert.equal(unknown.code, 1);
      assert.match(unknown.err, /DEVICE_UNKNOWN/);
    });

    it("tells all of it in JSON, integers exact", async () => {
      const { out } = await run(directory, "--json");
      const told = JSON.parse(out);
      assert.equal(told.form, "cloud-hypervisor");
      assert.equal(told.config.disks[0].serial, "9223372036854775809");
      assert.deepEqual(
        told.ranges.map(({ gpa, dataPages }: { gpa: number; dataPages: number }) => [gpa, dataPages]),
        [
          [4294967296, 1],
          [0, 0],
        ],
      );
      const [disk] = told.state.components[0].components;
      assert.deepEqual(disk, {
        name: "_disk0",
        data: [{ value: { features: "9223372036854775809", queues: [{ size: 256 }] } }],
        components: [],
      });
    });

    it("fails for one that is cut, and for what only files have", async () => {
      const ram = await run(directory, "--ram", "mem0=/dev/null");
      assert.match(ram.err, /RAM_IN_SNAPSHOT/);
      const diff = await run("--diff", directory, directory);
      assert.match(diff.err, /DIFF_DIRECTORY/);
      truncateSync(join(directory, "memory-ranges"), 4096);
      const { code, err, out } = await run(directory, "--json");
      assert.equal(code, 1);
      assert.match(err, /memory-ranges has 4096 bytes, state\.json lists 12288/);
      assert.equal(JSON.parse(out).code, "SNAPSHOT_CUT");
    });
  });
});
