/** Damaged virtio devices: recorded state, cut, changed and made up wrongly. Decoding ends, and in one of two ways. */

import assert from "node:assert/strict";
import fc from "fast-check";
import { ProtocolError } from "../errors.js";
import { recordedSection } from "../recorded-vectors.test.js";
import { checkVirtioDevice } from "./check-device.js";
import type { NetPart } from "./net-part.js";
import { recordedDevice, recordedDevices } from "./recorded-devices.test.js";
import { decodeVirtioDevice, encodeVirtioDevice, type VirtioDevice } from "./virtio-device.js";

/** Where a subsection of that name begins. */
function subsectionAt(bytes: Uint8Array, name: string): number {
  const at = Buffer.from(bytes).indexOf(Uint8Array.from([5, name.length, ...Buffer.from(name)]));
  assert.ok(at >= 0, `no subsection ${name}`);
  return at;
}

describe("virtio device state that is damaged", () => {
  const recorded = recordedSection("qemu-11.1/virtio-blk-running.bin.gz");
  const decode = (bytes: Uint8Array, of = recorded) => decodeVirtioDevice(of.name, bytes, of.version);
  const refuses = (bytes: Uint8Array, code: string, message: RegExp, of = recorded) =>
    assert.throws(() => decode(bytes, of), { name: "ProtocolError", code, message });
  /** The recorded bytes with others at a place. */
  const changed = (at: number, values: readonly number[], of = recorded) => {
    const bytes = of.bytes.slice();
    bytes.set(values, at);
    return bytes;
  };
  /** Where the core begins, behind a configuration space of 256 bytes and two MSI-X vectors or more. */
  const coreAt = (device: VirtioDevice) => 20 + 256 + device.pci.msix!.table.length + 1 + 2;
  const core = coreAt(recordedDevice("qemu-11.1/virtio-blk-running"));
  const queueCountAt = core + 12 + 57;

  it("is refused wherever it ends", () => {
    for (const name of ["qemu-7.2/virtio-blk-running", "qemu-11.1/virtio-net-multiqueue", "qemu-11.1/vhost-user-fs"]) {
      const of = recordedSection(`${name}.bin.gz`);
      const cuts = fc.oneof(fc.nat({ max: of.bytes.length - 1 }), fc.nat({ max: 1200 }));
      fc.assert(
        fc.property(cuts, (cut) => {
          try {
            // Between two subsections a section may end: then it is shorter, and whole.
            const device = decode(of.bytes.subarray(0, cut), of);
            assert.equal(encodeVirtioDevice(device!).length, cut);
          } catch (error) {
            if (!(error instanceof ProtocolError)) throw error;
          }
        }),
        { numRuns: 150 },
      );
      refuses(of.bytes.subarray(0, 300), "VIRTIO_TRUNCATED", /bytes were due/, of);
      refuses(of.bytes.subarray(0, -1), "VIRTIO_TRUNCATED", /bytes were due/, of);
    }
  });

  it("is refused in another version of the section", () => {
    const again = () => decodeVirtioDevice(recorded.name, recorded.bytes, recorded.version + 1);
    assert.throws(again, { code: "VIRTIO_VERSION", message: /virtio-blk: version 3 came, 2 was due/ });
  });

  it("is refused in another version of the PCI device", () => {
    refuses(changed(3, [3]), "VIRTIO_PCI_VERSION", /PCI device version: 3 came, 2 was due/);
  });

  it("is refused with more queues than a device has", () => {
    refuses(changed(queueCountAt, [0, 0, 4, 1]), "VIRTIO_COUNT", /queue count: 1025 came, 1024 at most/);
  });

  it("is refused with a configuration of absurd length", () => {
    refuses(changed(core + 8, [0xff, 0, 0, 0]), "VIRTIO_COUNT", /configuration: 4278190080 came/);
  });

  it("is refused with a subsection that is unknown, comes twice, or is newer", () => {
    const at = subsectionAt(recorded.bytes, "virtio/started");
    const started = recorded.bytes.subarray(at);
    const twice = Uint8Array.from([...recorded.bytes, ...started]);
    refuses(twice, "VIRTIO_SUBSECTION", /"virtio\/started": it comes twice or out of its order/);
    const name = Buffer.from("virtio/stranger");
    const unknown = Uint8Array.from([...recorded.bytes.subarray(0, at), 5, name.length, ...name, 0, 0, 0, 1, 1]);
    refuses(unknown, "VIRTIO_SUBSECTION", /"virtio\/stranger": it is unknown/);
    const newer = changed(at + 2 + "virtio/started".length + 3, [2]);
    refuses(newer, "VIRTIO_SUBSECTION_VERSION", /"virtio\/started": version 2 came, 1 at most was due/);
  });

  it("is refused with bytes behind its end", () => {
    const longer = Uint8Array.from([...recorded.bytes, 0, 0]);
    refuses(longer, "VIRTIO_TRAILING_BYTES", /2 bytes are left over/);
    const name = Buffer.from("another");
    const foreign = Uint8Array.from([...recorded.bytes, 5, name.length, ...name]);
    refuses(foreign, "VIRTIO_TRAILING_BYTES", /the subsection "another" is unknown/);
  });

  it("is refused with a yes or no that is neither", () => {
    refuses(changed(recorded.bytes.length - 1, [2]), "VIRTIO_FLAG", /2 came, 0 or 1 was due/);
  });

  it("is refused with an endianness that is none", () => {
    const at = subsectionAt(recorded.bytes, "virtio/64bit_features");
    const name = Buffer.from("virtio/device_endian");
    const odd = [5, name.length, ...name, 0, 0, 0, 1, 3];
    const bytes = Uint8Array.from([...recorded.bytes.subarray(0, at), ...odd, ...recorded.bytes.subarray(at)]);
    refuses(bytes, "VIRTIO_ENDIANNESS", /endianness: 3 came, 1 \(little\) or 2 \(big\) was due/);
  });

  it("is refused with more queue pairs in use than there are", () => {
    const of = recordedSection("qemu-11.1/virtio-net-multiqueue.bin.gz");
    const at = subsectionAt(of.bytes, "virtio/64bit_features") - 2;
    refuses(changed(at, [0, 5], of), "VIRTIO_QUEUE_PAIRS", /queue pairs: 5 in use came, 1 to 4 were due/, of);
    refuses(changed(at - 2, [2, 0], of), "VIRTIO_COUNT", /queue pairs: 512 came, 511 at most/, of);
  });

  it("is refused with more MAC filters than bytes, or an RSS table that is too long", () => {
    const of = recordedSection("qemu-11.1/virtio-net-running.bin.gz");
    const device = recordedDevice("qemu-11.1/virtio-net-running");
    const part = Buffer.from(of.bytes).lastIndexOf((device.part as NetPart).mac);
    refuses(changed(part + 18, [0xff, 0xff, 0xff, 0xff], of), "VIRTIO_COUNT", /MAC filters: 4294967295 came/, of);
    const rss = { enabled: 1, redirect: 1, populateHash: 0, hashTypes: 1, supportedHashTypes: 1, defaultQueue: 0 };
    const long = { ...rss, key: new Uint8Array(40), table: new Array<number>(129).fill(0) };
    const bytes = encodeVirtioDevice({ ...device, part: { ...(device.part as NetPart), subsections: { rss: long } } });
    refuses(bytes, "VIRTIO_COUNT", /RSS table: 129 came, 128 at most/, of);
  });

  it("is refused with more console ports than there can be", () => {
    const of = recordedSection("qemu-11.1/virtio-console.bin.gz");
    const device = recordedDevice("qemu-11.1/virtio-console");
    const part = coreAt(device) + 12 + device.config.length + 4 + 16 * device.queues.length;
    refuses(changed(part + 4, [0, 0, 2, 0], of), "VIRTIO_COUNT", /ports: 131072 came, 511 at most/, of);
    refuses(changed(part + 16, [1, 0, 0, 0], of), "VIRTIO_COUNT", /ports in use: 16777216 came, 511 at most/, of);
  });

  it("is refused if its parked requests are of a device without packed rings, which it says it offers", () => {
    const device = recordedDevice("qemu-11.1/virtio-blk-parked");
    assert.ok(device.part.kind === "block");
    const requests = device.part.requests.map((request) => ({ ...request, descriptors: null }));
    const bytes = encodeVirtioDevice({ ...device, part: { kind: "block", requests } });
    refuses(bytes, "VIRTIO_FLAG", /parked requests/, recordedSection("qemu-11.1/virtio-blk-parked.bin.gz"));
  });

  it("is refused with an inflight region that is longer than the section, or missing", () => {
    const of = recordedSection("qemu-11.1/vhost-user-blk-inflight.bin.gz");
    const at = subsectionAt(of.bytes, "vhost-inflight-region/buffer");
    refuses(changed(at - 10, [0xff], of), "VIRTIO_TRUNCATED", /inflight region: .* bytes were due/, of);
    refuses(changed(at, [6], of), "VIRTIO_SUBSECTION", /"vhost-inflight-region\/buffer" is missing/, of);
  });

  it("is never a loop of capabilities", () => {
    const bytes = changed(4 + 0x98 + 1, [0x98]);
    bytes[4 + 0x84 + 1] = 0x84;
    bytes[4 + 0x34] = 0x84;
    assert.throws(() => decode(bytes), ProtocolError);
  });

  for (const name of recordedDevices)
    it(`is refused or kept to the byte, whatever is changed (${name})`, () => {
      const of = recordedSection(`${name}.bin.gz`);
      // The arrays of 1024 queues are most of the bytes and the least of the structure.
      const place = fc.oneof(
        fc.nat({ max: Math.min(1400, of.bytes.length - 1) }),
        fc.integer({ min: Math.max(0, of.bytes.length - 200), max: of.bytes.length - 1 }),
        fc.nat({ max: of.bytes.length - 1 }),
      );
      const change = fc.record({ at: place, value: fc.nat({ max: 255 }) });
      fc.assert(
        fc.property(fc.array(change, { minLength: 1, maxLength: 4 }), (changes) => {
          const bytes = of.bytes.slice();
          for (const { at, value } of changes) bytes[at] = value;
          try {
            const device = decodeVirtioDevice(of.name, bytes, of.version)!;
            assert.ok(Buffer.from(encodeVirtioDevice(device)).equals(bytes), "encoded otherwise than it came");
            checkVirtioDevice(device, { memory: { read: () => null } });
          } catch (error) {
            if (!(error instanceof ProtocolError)) throw error;
          }
        }),
        { numRuns: 60 },
      );
    });
});
