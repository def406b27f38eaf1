import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { gunzipSync } from "node:zlib";
import { summarizeVirtio, type VirtioSummary } from "./virtio-summary.js";
import { virtioLines } from "./virtio-text.js";

/** A section as QEMU sent it: packages/protocol/vectors/README.md says how it was recorded. */
function recorded(name: string) {
  const file = readFileSync(new URL(`../../../protocol/vectors/${name}.bin.gz`, import.meta.url));
  const section = gunzipSync(file);
  const nameEnd = 6 + section[5]!;
  return {
    name: section.toString("latin1", 6, nameEnd),
    version: section.readUInt32BE(nameEnd + 4),
    bytes: new Uint8Array(section.subarray(nameEnd + 8, section.length - 5)),
  };
}

function summaryOf(name: string): VirtioSummary {
  const summary = summarizeVirtio(recorded(name));
  assert.ok(summary !== null && "type" in summary);
  return summary;
}

/** The line of a label. */
function lineOf(name: string, label: string): string {
  const line = virtioLines(summaryOf(name)).find((each) => each.trimStart().startsWith(`${label} `));
  return line?.trimStart().slice(label.length).trim() ?? "no such line";
}

describe("summary of a virtio device", () => {
  for (const peer of ["qemu-7.2", "qemu-11.1"]) {
    it(`names features and status, and tells rings and indexes (${peer})`, () => {
      const { status, featureNames, features, started, queues, refusal } = summaryOf(`${peer}/virtio-blk-running`);
      assert.deepEqual(status, ["ACKNOWLEDGE", "DRIVER", "DRIVER_OK", "FEATURES_OK"]);
      assert.deepEqual([features, featureNames], [0x100000044, ["SEG_MAX", "BLK_SIZE", "VERSION_1"]]);
      const places = { descriptors: 0x3fdd000, available: 0x3fde000, used: 0x3fdf000 };
      const [first] = queues;
      assert.deepEqual(first, { queue: 0, size: 256, vector: null, lastAvailableIndex: 1, ...places, packed: null });
      assert.deepEqual([started, refusal], [true, null]);
    });

    it(`tells what a parked request is about (${peer})`, () => {
      const { own } = summaryOf(`${peer}/virtio-blk-parked`);
      const { requests } = own as { requests?: { toWrite: object[] }[] };
      assert.deepEqual(requests![0]!.toWrite[0], { address: 0x7c00, bytes: 512 });
    });
  }

  it("brings a back-end's state, wherever its device keeps it", () => {
    assert.equal(summaryOf("qemu-11.1/vhost-user-fs").backendState, "01000200000000000000");
    const net = summaryOf("qemu-11.1/virtio-net-backend-state");
    assert.equal(Buffer.from(net.backendState!, "hex").toString(), "state of a back-end");
    assert.ok(!("backendState" in net.own));
  });

  it("is JSON", () => {
    const summary = summaryOf("qemu-11.1/vhost-user-blk-inflight");
    assert.deepEqual(JSON.parse(JSON.stringify(summary)), summary);
  });

  it("is nothing of a device that is not virtio's", () => {
    assert.equal(summarizeVirtio({ name: "cpu", version: 1, bytes: new Uint8Array(0) }), null);
  });

  it("says what a destination would refuse", () => {
    const section = recorded("qemu-11.1/virtio-rng-legacy");
    const queueSelectAt = 20 + 256 + 2 * 16 + 1 + 2 + 2;
    section.bytes[queueSelectAt] = 4;
    const summary = summarizeVirtio(section)!;
    assert.equal(summary.refusal?.code, "VIRTIO_QUEUE_SELECT");
    assert.match(virtioLines(summary).at(-1)!, /a destination would refuse it .*queue 1024 is selected/);
  });

  it("says why a device could not be decoded", () => {
    const section = recorded("qemu-11.1/virtio-rng-legacy");
    const summary = summarizeVirtio({ ...section, bytes: section.bytes.subarray(0, 100) })!;
    assert.equal(summary.refusal?.code, "VIRTIO_TRUNCATED");
    assert.match(virtioLines(summary)[0]!, /^not decoded as virtio: .*bytes were due/);
  });
});

describe("text of a virtio device", () => {
  it("tells a queue in a line, and equal ones together", () => {
    const queue = "256 descriptors, at 0x3bdc000, available 0x3bdd000, used 0x3bde000, next available 3, no vector";
    assert.equal(lineOf("qemu-11.1/virtio-net-running", "queue 0"), queue);
    assert.equal(lineOf("qemu-11.1/virtio-console", "queues 4 to 81"), "128 descriptors, not set up");
  });

  it("tells features with their bits, and addresses as people write them", () => {
    assert.equal(lineOf("qemu-11.1/virtio-net-running", "features"), "MAC, VERSION_1 (0x100000020)");
    assert.equal(lineOf("qemu-11.1/virtio-net-running", "mac"), "52:54:00:12:34:56");
    assert.equal(lineOf("qemu-11.1/virtio-rng-legacy", "status"), "reset");
    assert.equal(lineOf("qemu-7.2/virtio-net-multiqueue", "queuePairs"), "max 4, current 1, txWaiting none");
  });

  it("tells long bytes by their beginning", () => {
    assert.match(lineOf("qemu-11.1/virtio-net-running", "vlans"), /^512 bytes: (ff){32} …$/);
  });
});
