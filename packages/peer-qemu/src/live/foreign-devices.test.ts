import assert from "node:assert/strict";
import { foreignDevice, foreignNetworks } from "./foreign-devices.js";

/** What QEMU 7.2 says of a vhost-user network card, one of its own, and a backend that no card uses. */
const NETWORKS = [
  "virtio-net-pci.0: index=0,type=nic,model=virtio-net-pci,macaddr=52:54:00:12:34:56",
  " \\ n0: index=0,type=vhost-user,vhost-user0 to c",
  "virtio-net-pci.1: index=0,type=nic,model=virtio-net-pci,macaddr=52:54:00:12:34:57",
  " \\ n1: index=0,type=user,net=10.0.2.0,restrict=off",
  "v0: index=0,type=vhost-vdpa,x",
  "",
].join("\r\n");

describe("a device whose other half is not in QEMU", () => {
  it("is a process behind vhost-user, or hardware behind VFIO and vDPA", () => {
    const writes = (kind: string) => foreignDevice("d", `child<${kind}>`).map((device) => device.writes);
    for (const kind of ["vhost-user-fs-pci", "vhost-user-blk-pci", "vhost-user-gpu", "x-vfio-user-server"])
      assert.deepEqual(writes(kind), ["process"], kind);
    for (const kind of ["vfio-pci", "vfio-pci-nohotplug", "vhost-vdpa-device-pci"])
      assert.deepEqual(writes(kind), ["hardware"], kind);
    for (const kind of ["virtio-blk-pci", "vhost-vsock-pci", "vhost-scsi-pci", "virtio-net-pci"])
      assert.deepEqual(writes(kind), [], kind);
  });

  it("may stand behind a network card that does not tell", () => {
    assert.deepEqual(foreignNetworks(NETWORKS), [
      { name: "n0", kind: "vhost-user", writes: "process" },
      { name: "v0", kind: "vhost-vdpa", writes: "hardware" },
    ]);
  });
});
