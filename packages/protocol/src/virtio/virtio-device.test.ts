import assert from "node:assert/strict";
import { recordedSection } from "../recorded-vectors.test.js";
import { joinBackendState } from "./backend-state.js";
import type { ConsolePart } from "./console-part.js";
import type { NetPart } from "./net-part.js";
import { describeParkedElement, PARKED_ELEMENT_BYTES } from "./parked-element.js";
import { recordedDevice, recordedDevices } from "./recorded-devices.test.js";
import { decodeVirtioDevice, encodeVirtioDevice, type VirtioDevice } from "./virtio-device.js";

function decodedAgain(device: VirtioDevice): VirtioDevice | null {
  return decodeVirtioDevice(device.section, encodeVirtioDevice(device), device.type.version);
}

describe("virtio device state", () => {
  for (const name of recordedDevices)
    it(`is decoded and encoded to the same bytes (${name})`, () => {
      const { bytes } = recordedSection(`${name}.bin.gz`);
      assert.deepEqual(Buffer.from(encodeVirtioDevice(recordedDevice(name))), Buffer.from(bytes));
    });

  for (const peer of ["qemu-7.2", "qemu-11.1"]) {
    it(`tells the rings of a disk that a firmware reads (${peer})`, () => {
      const { queues, subsections, status, config } = recordedDevice(`${peer}/virtio-blk-running`);
      assert.deepEqual(queues, [
        { size: 256, descriptors: 0x3fdd000n, lastAvailableIndex: 1, vector: 0xffff },
        { size: 256, descriptors: 0n, lastAvailableIndex: 0, vector: 0xffff },
      ]);
      assert.deepEqual(subsections.rings?.[0], { available: 0x3fde000n, used: 0x3fdf000n });
      assert.deepEqual([subsections.started, status, config.length], [true, 15, 57]);
      assert.equal(subsections.pciExtra?.modernState?.queues[0]?.enabled, 1);
    });

    it(`tells the request that a failing disk has parked (${peer})`, () => {
      const { part } = recordedDevice(`${peer}/virtio-blk-parked`);
      assert.ok(part.kind === "block" && part.requests.length === 1);
      const [request] = part.requests;
      assert.deepEqual([request!.queue, request!.descriptors], [0, 1]);
      const { head, toRead, toWrite } = describeParkedElement(request!)!;
      assert.equal(head, 0);
      assert.deepEqual(
        toRead.map(({ bytes }) => bytes),
        [16n],
      );
      // The boot sector goes to where firmware has always put it, its status behind.
      assert.deepEqual(toWrite[0], { address: 0x7c00n, bytes: 512n });
      assert.equal(toWrite[1]!.bytes, 1n);
    });

    it(`tells the queue pairs of a network card behind a root port (${peer})`, () => {
      const { pci, part } = recordedDevice(`${peer}/virtio-net-multiqueue`);
      assert.deepEqual([pci.configurationSpace.length, pci.msix?.table.length], [4096, 160]);
      assert.ok(part.kind === "net");
      assert.deepEqual(part.queuePairs, { max: 4, current: 1, txWaiting: [] });
      assert.equal(Buffer.from(part.mac).toString("hex"), "525400123456");
    });

    it(`tells the ports of a console (${peer})`, () => {
      const { part, queues } = recordedDevice(`${peer}/virtio-console`);
      assert.ok(part.kind === "console");
      assert.deepEqual([part.portsMax, part.portsMap, queues.length], [40, [1, 2], 82]);
      assert.deepEqual(
        part.ports.map(({ id }) => id),
        [0, 33],
      );
    });
  }

  it("tells what a back-end saved of itself", () => {
    const fs = recordedDevice("qemu-11.1/vhost-user-fs");
    const nothingOpen = "01000200000000000000";
    assert.equal(Buffer.from(joinBackendState(fs.sectionSubsections.backendState!)).toString("hex"), nothingOpen);
    const { part } = recordedDevice("qemu-11.1/virtio-net-backend-state");
    assert.ok(part.kind === "net");
    assert.equal(Buffer.from(joinBackendState(part.subsections.backendState!)).toString(), "state of a back-end");
    const disk = recordedDevice("qemu-11.1/vhost-user-blk-inflight");
    const { queueSize, bytes } = disk.sectionSubsections.inflight!;
    assert.deepEqual([queueSize, bytes.length, Buffer.from(bytes.subarray(0, 8)).toString()], [128, 4096, "inflight"]);
  });

  it("is nobody's of a section that is not virtio's, not on PCI, or of a type not known here", () => {
    for (const section of ["cpu", "0000:00:02.0/e1000", "virtio-mmio@0a003c00/virtio-net", "0000:00:01.0/virtio-gpu"])
      assert.equal(decodeVirtioDevice(section, new Uint8Array(0), 1), null, section);
  });
});

describe("virtio device state that no recording has", () => {
  const same = (device: VirtioDevice) => assert.deepEqual(decodedAgain(device), device);
  const element = new Uint8Array(PARKED_ELEMENT_BYTES).fill(7);

  it("keeps a network card's filters, offloads, queue pairs, RSS and pieces of back-end state", () => {
    const device = recordedDevice("qemu-11.1/virtio-net-running");
    const rss = { enabled: 1, redirect: 1, populateHash: 0, hashTypes: 0x1ff, defaultQueue: 2, table: [0, 1, 2, 3] };
    const key = new Uint8Array(40).fill(0x6d);
    const part: NetPart = {
      ...(device.part as NetPart),
      macFilters: [Uint8Array.of(1, 2, 3, 4, 5, 6), new Uint8Array(6).fill(0xff)],
      queuePairs: { max: 511, current: 3, txWaiting: [1, 0] },
      guestOffloads: 0x0580n,
    };
    const featuresLow = device.featuresLow | 4;
    const net = { ...device, part, featuresLow };
    const states = [
      {},
      { rss: { ...rss, key, supportedHashTypes: null } },
      { rss: { ...rss, key, supportedHashTypes: 0xff }, backendState: [Uint8Array.of(1), Uint8Array.of(2, 3)] },
    ];
    for (const subsections of states) {
      same({ ...net, part: { ...part, subsections } });
      same({ ...net, part: { ...part, queuePairs: null, subsections } });
      const plain = { ...part, guestOffloads: null, subsections };
      same({ ...device, part: plain });
      same({ ...device, part: { ...plain, queuePairs: null } });
    }
    // Nothing behind the part at all: an old source without any subsection.
    same({ ...net, subsections: {} });
    same({ ...net, part: { ...part, queuePairs: null }, subsections: {} });
  });

  it("keeps what a console's guest wrote and nobody read, with and without packed rings, and either byte order", () => {
    const device = recordedDevice("qemu-7.2/virtio-console");
    const packed = recordedDevice("qemu-7.2/virtio-rng-packed").subsections.packedQueues!;
    const part = device.part as ConsolePart;
    const parkedAt = (descriptors: number | null) => ({ buffer: 3, offset: 17n, descriptors, bytes: element });
    const ports = part.ports.map((port) => ({ ...port, parked: parkedAt(null) }));
    same({ ...device, part: { ...part, ports } });
    same({ ...device, part: { ...part, portsMax: 0x28000000, ports } });
    const packedPorts = part.ports.map((port) => ({ ...port, parked: parkedAt(2) }));
    const subsections = { ...device.subsections, packedQueues: packed };
    same({ ...device, part: { ...part, ports: packedPorts }, subsections });
  });

  it("keeps several parked requests of a disk with one queue", () => {
    const device = recordedDevice("qemu-7.2/virtio-blk-legacy");
    const request = { queue: null, descriptors: null, bytes: element };
    same({ ...device, part: { kind: "block", requests: [request, request] } });
  });

  it("keeps a balloon's free page hint and poison", () => {
    const device = recordedDevice("qemu-11.1/virtio-balloon");
    const subsections = { freePageHint: { commandId: 0x80000001, status: 2 }, poison: 0xaaaaaaaa };
    same({ ...device, part: { kind: "balloon", target: 100, actual: 90, subsections } });
  });

  it("keeps every subsection that a virtio device may have", () => {
    const device = recordedDevice("qemu-11.1/virtio-rng-packed");
    const modernState = device.subsections.pciExtra!.modernState!;
    const pciExtra = { modernState: { ...modernState, subsections: { features128: (7n << 32n) | 9n } } };
    const more = {
      endianness: "big",
      features128: 2n ** 64n - 1n,
      broken: true,
      started: true,
      disabled: false,
    } as const;
    const defaultSizes = Array.from({ length: 1024 }, (_, queue) => queue);
    same({ ...device, subsections: { ...device.subsections, ...more, defaultSizes, pciExtra } });
  });
});
