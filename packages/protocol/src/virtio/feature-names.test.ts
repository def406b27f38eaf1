import assert from "node:assert/strict";
import { featureNames, guestFeatures, statusNames } from "./feature-names.js";
import { recordedDevice } from "./recorded-devices.test.js";

describe("names of virtio features", () => {
  it("are those that iPXE and SeaBIOS accepted", () => {
    const net = recordedDevice("qemu-7.2/virtio-net-running");
    assert.deepEqual(featureNames(net.type.id, guestFeatures(net)), ["MAC", "VERSION_1"]);
    const disk = recordedDevice("qemu-7.2/vhost-user-blk");
    const names = featureNames(disk.type.id, guestFeatures(disk));
    assert.deepEqual(names, ["SIZE_MAX", "SEG_MAX", "BLK_SIZE", "VERSION_1"]);
    assert.deepEqual(statusNames(disk.status), ["ACKNOWLEDGE", "DRIVER", "DRIVER_OK", "FEATURES_OK"]);
    const legacy = recordedDevice("qemu-7.2/virtio-blk-legacy");
    assert.deepEqual(featureNames(legacy.type.id, guestFeatures(legacy)), []);
  });

  it("differ from type to type, and reach beyond 64 bits", () => {
    assert.deepEqual(featureNames(1, 1n | (1n << 22n) | (1n << 65n)), ["CSUM", "MQ", "GUEST_UDP_TUNNEL_GSO"]);
    assert.deepEqual(featureNames(3, 1n | (1n << 29n)), ["SIZE", "RING_EVENT_IDX"]);
  });

  it("are numbers where a bit has no name", () => {
    assert.deepEqual(featureNames(4, 0b11n), ["bit 0", "bit 1"]);
    assert.deepEqual(featureNames(99, 1n << 127n), ["bit 127"]);
    assert.deepEqual(statusNames(0x20 | 0x80), ["FAILED"]);
  });

  it("come from all of a device's features, whichever subsection has them", () => {
    const device = recordedDevice("qemu-11.1/virtio-net-running");
    const subsections = { ...device.subsections, features128: 2n };
    assert.equal(guestFeatures({ ...device, subsections }), guestFeatures(device) | (1n << 65n));
    assert.equal(guestFeatures({ ...device, subsections: {} }), BigInt(device.featuresLow));
  });
});
