import assert from "node:assert/strict";
import { FEATURE_RING_PACKED, guestFeatures } from "./feature-names.js";
import { recordedDevice } from "./recorded-devices.test.js";
import { virtioRings } from "./rings.js";

describe("rings of a virtio device", () => {
  it("lie where a guest with VERSION_1 has put them", () => {
    const [ring, unused] = virtioRings(recordedDevice("qemu-7.2/virtio-blk-running"));
    assert.deepEqual(ring!.memory, {
      descriptors: { address: 0x3fdd000n, bytes: 4096n },
      available: { address: 0x3fde000n, bytes: 518n },
      used: { address: 0x3fdf000n, bytes: 2054n },
    });
    assert.deepEqual([ring!.queue, ring!.size, ring!.lastAvailableIndex, ring!.packed], [0, 256, 1, null]);
    assert.equal(unused!.memory, null);
  });

  it("follow the descriptor table of a guest without it, the used ring on the next page", () => {
    const device = recordedDevice("qemu-7.2/virtio-blk-legacy");
    const [ring] = virtioRings(device);
    assert.equal(device.subsections.rings, undefined);
    assert.equal(ring!.memory!.available.address, 0x3fde000n);
    assert.equal(ring!.memory!.used.address, 0x3fdf000n);
  });

  it("bring their own indexes if they are packed, and take no room for others", () => {
    const device = recordedDevice("qemu-7.2/virtio-rng-packed");
    const features64 = guestFeatures(device) | FEATURE_RING_PACKED;
    const queues = [{ ...device.queues[0]!, descriptors: 4096n }];
    const [ring] = virtioRings({ ...device, queues, subsections: { ...device.subsections, features64 } });
    const packed = { lastAvailableIndex: 0, lastAvailableWrap: 1, usedIndex: 0, usedWrap: 1, inUse: 0 };
    assert.deepEqual([ring!.packed, ring!.memory!.used.bytes], [packed, 4n]);
  });
});
