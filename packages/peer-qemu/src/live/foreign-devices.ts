/**
 * Foreign devices: those of a QEMU whose other half is not in QEMU, and writes the guest's RAM by itself.
 *
 * A vhost-user back-end maps the RAM in a process of its own; VFIO and vDPA hand it to hardware. Neither is seen by write
 * tracking, which belongs to QEMU's own mappings. A vhost-user back-end could log what it writes, but is asked for that on
 * its one socket, whose other end is QEMU's: nobody can speak there beside an unmodified QEMU. So they are refused, by name.
 *
 * Kernel vhost (net, scsi, vsock) writes through QEMU's own mappings and is seen.
 * Source: QEMU 7.2 and 11.1, hw/virtio, net/net.c, hmp_info_network().
 */
import { SystemError } from "@multifd/protocol";
import { toList, toText } from "../drive/qmp-answer.js";
import type { QmpClient } from "../qmp-client.js";

type ForeignDevice = { readonly name: string; readonly kind: string; readonly writes: "process" | "hardware" };

const IN_PROCESS = /^(vhost-user-|x-vfio-user-|x-remote-|vfio-user-)/;
const IN_HARDWARE = /^(vfio-|vhost-vdpa-)/;
const NETWORK = /(?:^|\s|\\\s*)(\S+): index=\d+,type=(vhost-user|vhost-vdpa)\b/g;

/**
 * Refuses a guest whose RAM is written behind QEMU's back.
 *
 * @throws {SystemError} RAM_WRITTEN_ELSEWHERE, RAM_WRITTEN_BY_DEVICE, naming every such device and what to do.
 */
export async function refuseForeignDevices(qmp: QmpClient): Promise<void> {
  const listed = await Promise.all(["peripheral", "peripheral-anon"].map((folder) => listDevices(qmp, folder)));
  const network = toText(
    await qmp.execute("human-monitor-command", { "command-line": "info network" }),
    "info network",
  );
  refuseNamed([...listed.flat(), ...foreignNetworks(network)]);
}

async function listDevices(qmp: QmpClient, folder: string): Promise<readonly ForeignDevice[]> {
  const answer = toList(await qmp.execute("qom-list", { path: `/machine/${folder}` }), "qom-list");
  return answer.flatMap(({ name, type }) => foreignDevice(toText(name, "qom-list"), toText(type, "qom-list")));
}

/** @param type  As `qom-list` tells it: `child<vhost-user-fs-pci>`. */
export function foreignDevice(name: string, type: string): readonly ForeignDevice[] {
  const kind = /^child<(.+)>$/.exec(type)?.[1] ?? "";
  if (IN_PROCESS.test(kind)) return [{ name, kind, writes: "process" }];
  return IN_HARDWARE.test(kind) ? [{ name, kind, writes: "hardware" }] : [];
}

/** @param text  What `info network` says. */
export function foreignNetworks(text: string): readonly ForeignDevice[] {
  return [...text.matchAll(NETWORK)].map(([, name = "", kind = ""]) => ({
    name,
    kind,
    writes: kind === "vhost-user" ? "process" : "hardware",
  }));
}

function refuseNamed(devices: readonly ForeignDevice[]): void {
  const [first] = devices;
  if (first === undefined) return;
  const named = devices.map(({ name, kind }) => `"${name}" (${kind})`).join(", ");
  if (devices.some(({ writes }) => writes === "hardware")) {
    throw new SystemError(
      "RAM_WRITTEN_BY_DEVICE",
      `device ${named} writes the guest's RAM by DMA, unseen by write tracking; unplug it first (device_del), and plug one in at the destination`,
    );
  }
  throw new SystemError(
    "RAM_WRITTEN_ELSEWHERE",
    `device ${named} has its other half in a process of its own, which writes the guest's RAM unseen, and whose dirty log only QEMU can ask for; unplug it first (device_del) and plug one in at the destination, or let QEMU migrate by itself, through multifd relay`,
  );
}
