/**
 * Inflight region: the memory in which a block back-end notes the requests that it works on.
 *
 * Sent when the back-end may stop with requests under way, so that the one at
 * the destination can take them up. The region lies in a subsection of its own
 * description, whose length the fields before it give.
 *
 * Source: QEMU 11.1, hw/virtio/vhost.c, vmstate_vhost_inflight_region.
 */

import type { ByteWriter } from "../byte-writer.js";
import { SECTION_SUBSECTION } from "../main-stream.js";
import type { StateReader } from "./state-reader.js";
import type { SubsectionFormat } from "./subsections.js";

export type InflightRegion = { readonly queueSize: number; readonly bytes: Uint8Array };

const BUFFER = "vhost-inflight-region/buffer";
const BUFFER_VERSION = 0;

export function inflightRegionSubsection(name: string): SubsectionFormat<InflightRegion> {
  return { name, versions: [1], read: readInflightRegion, write: writeInflightRegion };
}

function readInflightRegion(reader: StateReader): InflightRegion {
  const what = "inflight region";
  const bytes = reader.u64(what);
  const queueSize = reader.u16(what);
  if (reader.peekSubsection(BUFFER) !== BUFFER)
    throw reader.refused("VIRTIO_SUBSECTION", what, `the subsection "${BUFFER}" is missing; the section is damaged`);
  const { version } = reader.subsection();
  if (version !== BUFFER_VERSION) {
    const message = `version ${version} came, ${BUFFER_VERSION} was due; the device is newer than this program`;
    throw reader.refused("VIRTIO_SUBSECTION_VERSION", `subsection "${BUFFER}"`, message);
  }
  // What exceeds the section is refused by the reader, however large: a number holds it well enough for that.
  return { queueSize, bytes: reader.bytes(Number(bytes), what) };
}

function writeInflightRegion(out: ByteWriter, region: InflightRegion): void {
  out.u64(region.bytes.length).u16(region.queueSize);
  out.u8(SECTION_SUBSECTION).name(BUFFER).u32(BUFFER_VERSION).bytes(region.bytes);
}
