/**
 * Console part: what virtio-serial, the bus of consoles and ports, saves beside its queues.
 *
 *   columns, rows │ ports │ map of port numbers in use │ count │ { port [parked request] }…
 *
 * The number of ports is written twice swapped for a big-endian guest; as it
 * is 511 at most, its size tells. It sizes the map that follows.
 *
 * Source: QEMU 10.2, hw/char/virtio-serial-bus.c, virtio_serial_save_device().
 */

import type { ByteWriter } from "../byte-writer.js";
import { layout } from "../layout.js";
import { u8, u16be, u32be } from "../wire-fields.js";
import { type ParkedElement, readParkedElement, writeParkedElement } from "./parked-element.js";
import type { StateReader } from "./state-reader.js";

const PORTS_MAX = 511;

const head = layout("virtio-console", { columns: u16be, rows: u16be, portsMax: u32be }, { size: 8 });

const portHead = layout(
  "virtio-console, port",
  {
    id: u32be,
    guestConnected: u8,
    hostConnected: u8,
    parked: u32be, // wire: elem_popped
  },
  { size: 10 },
);

export type ConsolePort = Omit<ReturnType<(typeof portHead)["decode"]>, "parked"> & {
  /** Output of the guest that the host side had not taken yet, and how far it had got. */
  readonly parked: (ParkedElement & { readonly buffer: number; readonly offset: bigint }) | null;
};

export type ConsolePart = {
  readonly kind: "console";
  readonly columns: number;
  readonly rows: number;
  /** As it came, which is byte-swapped for a big-endian guest. */
  readonly portsMax: number;
  /** One bit a port number, 32 to a word. */
  readonly portsMap: readonly number[];
  readonly ports: readonly ConsolePort[];
};

/** @param packed  Whether the device offers packed rings. */
export function readConsolePart(reader: StateReader, packed: boolean): ConsolePart {
  const { portsMax, ...size } = reader.layout(head);
  const words = Math.ceil(reader.bounded(portCount(portsMax), PORTS_MAX, "ports") / 32);
  const portsMap = Array.from({ length: words }, () => reader.u32("map of ports"));
  const count = reader.bounded(reader.u32("ports in use"), PORTS_MAX, "ports in use");
  const ports = Array.from({ length: count }, () => readPort(reader, packed));
  return { kind: "console", ...size, portsMax, portsMap, ports };
}

export function writeConsolePart(out: ByteWriter, part: ConsolePart): void {
  out.bytes(head.encode(part));
  for (const word of part.portsMap) out.u32(word);
  out.u32(part.ports.length);
  for (const port of part.ports) {
    out.bytes(portHead.encode({ ...port, parked: port.parked === null ? 0 : 1 }));
    if (port.parked === null) continue;
    out.u32(port.parked.buffer).u64Exact(port.parked.offset);
    writeParkedElement(out, port.parked);
  }
}

/** The number of ports, whichever byte order it was written in. */
function portCount(portsMax: number): number {
  if (portsMax <= PORTS_MAX) return portsMax;
  const swapped = new DataView(new ArrayBuffer(4));
  swapped.setUint32(0, portsMax);
  return swapped.getUint32(0, true);
}

function readPort(reader: StateReader, packed: boolean): ConsolePort {
  const { parked, ...port } = reader.layout(portHead);
  if (parked > 1) throw reader.refused("VIRTIO_FLAG", `port ${port.id}`, `${parked} came for "parked", 0 or 1 was due`);
  if (parked === 0) return { ...port, parked: null };
  const buffer = reader.u32("parked output");
  const offset = reader.u64("parked output");
  return { ...port, parked: { buffer, offset, ...readParkedElement(reader, packed) } };
}
