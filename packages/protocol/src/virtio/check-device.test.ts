import assert from "node:assert/strict";
import type { BlockRequest } from "./block-part.js";
import { checkVirtioDevice, type DestinationFacts } from "./check-device.js";
import type { ConsolePart } from "./console-part.js";
import { FEATURE_RING_PACKED, guestFeatures } from "./feature-names.js";
import { PARKED_ELEMENT_BYTES } from "./parked-element.js";
import { recordedDevice, recordedDevices } from "./recorded-devices.test.js";
import { virtioRings } from "./rings.js";
import type { VirtioDevice, VirtioQueue } from "./virtio-device.js";

const disk = recordedDevice("qemu-11.1/virtio-blk-running");
const packedRng = recordedDevice("qemu-11.1/virtio-rng-packed");

function refuses(device: VirtioDevice, code: string, message: RegExp, facts?: DestinationFacts): void {
  const where = device.section.replace("/", "\\/");
  const whole = new RegExp(`^${where}(, queue \\d+)?: .*${message.source}`);
  assert.throws(() => checkVirtioDevice(device, facts), { name: "ProtocolError", code, message: whole });
}

/** The device with its queue 0 changed. */
function withQueue(device: VirtioDevice, change: Partial<VirtioQueue>): VirtioDevice {
  return { ...device, queues: device.queues.map((queue, i) => (i === 0 ? { ...queue, ...change } : queue)) };
}

describe("check of a virtio device", () => {
  for (const name of recordedDevices)
    it(`passes what a real peer sent (${name})`, () => checkVirtioDevice(recordedDevice(name)));

  it("refuses a PCI device that is none of the type's", () => {
    const net = recordedDevice("qemu-11.1/virtio-net-running").pci;
    refuses({ ...disk, pci: net }, "VIRTIO_PCI_ID", /0x1af4:0x1000 came, 0x1af4:0x1042 or 0x1af4:0x1001 was due/);
    const fs = recordedDevice("qemu-11.1/vhost-user-fs");
    refuses({ ...fs, pci: net }, "VIRTIO_PCI_ID", /0x1af4:0x1000 came, 0x1af4:0x105a was due/);
  });

  it("refuses an interrupt line that is neither up nor down", () => {
    const pci = { ...disk.pci, interruptLines: [0, 0, 2, 0] };
    refuses({ ...disk, pci }, "VIRTIO_INTERRUPT_LINE", /interrupt line C is 2, 0 or 1 was due/);
  });

  it("refuses a PCI configuration that differs where it must not", () => {
    const { configurationSpace } = disk.pci;
    const compared = new Uint8Array(256).fill(0xff, 0, 4);
    checkVirtioDevice(disk, { pci: { configurationSpace, compared } });
    const other = configurationSpace.slice();
    other[2] = 0x42;
    const pci = { configurationSpace: other, compared };
    refuses(disk, "VIRTIO_PCI_CONFIGURATION", /configuration byte 0x2 is 0x1, 0x42 was due/, { pci });
    const longer = { configurationSpace: new Uint8Array(4096), compared };
    refuses(disk, "VIRTIO_PCI_CONFIGURATION", /256 bytes of PCI configuration space came, 4096/, { pci: longer });
  });

  it("refuses vectors that the device does not have", () => {
    const msix = { ...disk.pci.msix!, configurationVector: 3 };
    const due = /configuration vector 3 came, a number below 3 or 0xffff for none was due/;
    refuses({ ...disk, pci: { ...disk.pci, msix } }, "VIRTIO_VECTOR", due);
    refuses(withQueue(disk, { vector: 9 }), "VIRTIO_VECTOR", /queue 0: vector 9 came, a number below 3/);
  });

  it("refuses the selection of a queue beyond all that can be", () => {
    refuses({ ...disk, queueSelect: 1024 }, "VIRTIO_QUEUE_SELECT", /queue 1024 is selected, below 1024 was due/);
  });

  it("refuses queue sizes that no ring can have", () => {
    for (const size of [0, 2048, 2 ** 31, 3])
      refuses(
        withQueue(disk, { size }),
        "VIRTIO_QUEUE_SIZE",
        /queue 0: size \d+ came, a power of two up to 1024 was due/,
      );
    const subsections = { ...packedRng.subsections, features64: guestFeatures(packedRng) | FEATURE_RING_PACKED };
    const packed = { ...packedRng, subsections };
    checkVirtioDevice(withQueue(packed, { size: 3 }));
    refuses(withQueue(packed, { size: 1025 }), "VIRTIO_QUEUE_SIZE", /queue 0: size 1025 came, 1 to 1024 was due/);
  });

  it("refuses a queue that has got on without rings", () => {
    const due = /queue 0: last available index 1 came without rings, 0 was due/;
    refuses(withQueue(disk, { descriptors: 0n }), "VIRTIO_QUEUE_INDEX", due);
  });

  it("refuses parked requests of another queue, another descriptor, or more buffers than fit", () => {
    const element = (head: number, toRead: number, toWrite: number) => {
      const bytes = new Uint8Array(PARKED_ELEMENT_BYTES);
      const view = new DataView(bytes.buffer);
      for (const [i, value] of [head, toRead, toWrite].entries()) view.setUint32(4 * i, value, true);
      return bytes;
    };
    const parked = (request: Partial<BlockRequest>): VirtioDevice => {
      const whole = { queue: 0, descriptors: null, bytes: element(0, 1, 2), ...request };
      return { ...disk, part: { kind: "block", requests: [whole] } };
    };
    checkVirtioDevice(parked({}));
    const code = "VIRTIO_PARKED_REQUEST";
    refuses(parked({ queue: 2 }), code, /a parked request names queue 2, below 2 was due/);
    refuses(parked({ bytes: element(256, 1, 1) }), code, /queue 0: .* has descriptor 256, below 256 was due/);
    refuses(parked({ bytes: element(0, 1025, 0) }), code, /queue 0: .* more buffers than its struct holds \(1024\)/);
    refuses(parked({ bytes: element(0, 600, 600) }), code, /queue 0: .* has 1200 buffers, 1024 at most were due/);
  });

  it("refuses a console port that is not in the map, and holds its parked output to the same", () => {
    const device = recordedDevice("qemu-7.2/virtio-console");
    const part = device.part as ConsolePart;
    refuses({ ...device, part: { ...part, portsMap: [1, 0] } }, "VIRTIO_PORT", /port 33 came, which the map/);
    const bytes = new Uint8Array(PARKED_ELEMENT_BYTES).fill(0xff);
    const ports = [{ ...part.ports[0]!, parked: { buffer: 0, offset: 0n, descriptors: null, bytes } }];
    refuses({ ...device, part: { ...part, ports } }, "VIRTIO_PARKED_REQUEST", /port 0: a parked request has more/);
  });

  it("refuses features that are not offered, by name", () => {
    checkVirtioDevice(disk, { offeredFeatures: guestFeatures(disk) | 1n });
    const due = /0x100000044 came, 0x100000004 are offered here: BLK_SIZE too many/;
    refuses(disk, "VIRTIO_FEATURES", due, { offeredFeatures: guestFeatures(disk) & ~0x40n });
  });

  it("refuses features that contradict each other or what came with them", () => {
    const { rings: _, ...noRings } = disk.subsections;
    refuses(
      { ...disk, featuresLow: 1 },
      "VIRTIO_FEATURES",
      /features 0x1 came with the core, 0x44 with the subsection/,
    );
    refuses({ ...disk, subsections: noRings }, "VIRTIO_FEATURES", /VERSION_1 was negotiated, but no ring addresses/);
    const features64 = guestFeatures(disk) | FEATURE_RING_PACKED;
    const packed = { ...disk, subsections: { ...disk.subsections, features64 } };
    refuses(packed, "VIRTIO_FEATURES", /RING_PACKED was negotiated, but no packed indexes came/);
    const big = { ...disk, subsections: { ...disk.subsections, endianness: "big" } } as const;
    refuses(big, "VIRTIO_ENDIANNESS", /big-endian came with VERSION_1/);
  });
});

describe("check of a virtio device against guest RAM", () => {
  /** Guest RAM of 64 MiB in which only queue 0's indexes are not zero. */
  function memoryOf(device: VirtioDevice, available: number, used: number, isBigEndian = false) {
    const [ring] = virtioRings(device);
    const index = (value: number) => {
      const bytes = new Uint8Array(2);
      new DataView(bytes.buffer).setUint16(0, value, !isBigEndian);
      return bytes;
    };
    const read = (address: bigint, bytes: number) => {
      if (address + BigInt(bytes) > 64n << 20n) return null;
      if (address === ring!.memory!.available.address + 2n) return index(available);
      if (address === ring!.memory!.used.address + 2n) return index(used);
      return new Uint8Array(bytes);
    };
    return { memory: { read } };
  }

  it("passes a queue that is behind the guest by no more than its ring, around the end of the indexes too", () => {
    for (const [last, available, used] of [
      [1, 1, 1],
      [0xffff, 0x00ff, 0xffff],
      [0x0010, 0x0010, 0xff10],
    ] as const) {
      const device = withQueue(disk, { lastAvailableIndex: last });
      checkVirtioDevice(device, memoryOf(device, available, used));
    }
  });

  it("refuses a guest that is too far ahead of the device", () => {
    const due = /available index 258 is 257 ahead of last available index 1, 256 at most was due/;
    refuses(disk, "VIRTIO_RING_INDEX", due, memoryOf(disk, 258, 1));
  });

  it("refuses a device that is too far ahead of what it gave back", () => {
    const due = /last available index 1 is 65535 ahead of used index 2, 256 at most was due/;
    refuses(disk, "VIRTIO_RING_INDEX", due, memoryOf(disk, 1, 2));
  });

  it("reads the indexes of a big-endian guest as it wrote them", () => {
    const legacy = recordedDevice("qemu-11.1/virtio-blk-legacy");
    const device = { ...legacy, subsections: { ...legacy.subsections, endianness: "big" } } as const;
    checkVirtioDevice(device, memoryOf(device, 0x0002, 0x0001, true));
    refuses(device, "VIRTIO_RING_INDEX", /available index 512/, memoryOf(device, 0x0002, 0x0001));
  });

  it("refuses rings that do not lie in RAM, and says which", () => {
    const far = withQueue(disk, { descriptors: (64n << 20n) - 16n });
    refuses(far, "VIRTIO_RING_MEMORY", /descriptor table at 0x3fffff0, 4096 bytes/, memoryOf(disk, 1, 1));
    const rings = disk.subsections.rings!.map((ring) => ({ ...ring, used: 2n ** 63n }));
    const device = { ...disk, subsections: { ...disk.subsections, rings } };
    refuses(device, "VIRTIO_RING_MEMORY", /used ring at 0x8000000000000000, 2054 bytes/, memoryOf(disk, 1, 1));
  });

  it("holds a packed ring's indexes to its size, for memory does not tell them", () => {
    const features64 = guestFeatures(packedRng) | FEATURE_RING_PACKED;
    const set = (change: object) => {
      const packedQueues = packedRng.subsections.packedQueues!.map((queue) => ({ ...queue, ...change }));
      const device = { ...packedRng, subsections: { ...packedRng.subsections, features64, packedQueues } };
      return withQueue(device, { descriptors: 4096n });
    };
    checkVirtioDevice(set({ lastAvailableIndex: 7, usedIndex: 0, inUse: 8 }));
    refuses(set({ lastAvailableIndex: 8 }), "VIRTIO_RING_INDEX", /last available index 8 came, 7 at most was due/);
    refuses(set({ usedIndex: 9 }), "VIRTIO_RING_INDEX", /used index 9 came, 7 at most was due/);
    refuses(set({ inUse: 9 }), "VIRTIO_RING_INDEX", /descriptors in use 9 came, 8 at most was due/);
  });
});
