/**
 * Balloon part: what virtio-balloon saves beside its queues.
 *
 * Source: QEMU 10.2, hw/virtio/virtio-balloon.c, vmstate_virtio_balloon_device.
 */

import type { ByteWriter } from "../byte-writer.js";
import { layout } from "../layout.js";
import { u32be } from "../wire-fields.js";
import type { StateReader } from "./state-reader.js";
import { readSubsections, type SubsectionFormat, type SubsectionValues, writeSubsections } from "./subsections.js";

const balloonPages = layout(
  "virtio-balloon",
  {
    /** Pages that the host wants back. */
    target: u32be, // wire: num_pages
    /** Pages that the guest has given. */
    actual: u32be,
  },
  { size: 8 },
);

const freePageHint = layout("free page hint", { commandId: u32be, status: u32be }, { size: 8 });

type FreePageHint = ReturnType<(typeof freePageHint)["decode"]>;

const BALLOON_SUBSECTIONS = {
  freePageHint: {
    name: "virtio-balloon-device/free-page-report",
    versions: [1],
    read: (reader) => reader.layout(freePageHint),
    write: (out, hint) => out.bytes(freePageHint.encode(hint)),
  } satisfies SubsectionFormat<FreePageHint>,
  poison: {
    name: "virtio-balloon-device/page-poison",
    versions: [1],
    read: (reader) => reader.u32("page poison"),
    write: (out, value) => out.u32(value),
  } satisfies SubsectionFormat<number>,
};

export type BalloonPart = ReturnType<(typeof balloonPages)["decode"]> & {
  readonly kind: "balloon";
  readonly subsections: SubsectionValues<typeof BALLOON_SUBSECTIONS>;
};

export function readBalloonPart(reader: StateReader): BalloonPart {
  const pages = reader.layout(balloonPages);
  return {
    kind: "balloon",
    ...pages,
    subsections: readSubsections(reader, "virtio-balloon-device", BALLOON_SUBSECTIONS),
  };
}

export function writeBalloonPart(out: ByteWriter, part: BalloonPart): void {
  out.bytes(balloonPages.encode(part));
  writeSubsections(out, BALLOON_SUBSECTIONS, part.subsections);
}
