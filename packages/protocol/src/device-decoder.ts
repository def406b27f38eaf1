/**
 * Device decoder: device sections as trees of named fields, with every byte accounted for or named.
 *
 * The description that follows the sections is believed as far as the bytes agree. Where
 * they do not (a device that describes itself wrongly, damage), what was read
 * so far is kept, the section's end is looked for by the header that is due behind it, and the bytes between are reported. So one bad device does
 * not hide the others.
 */

import { ByteWriter } from "./byte-writer.js";
import { DeviceWalk } from "./device-sections.js";
import type { DecodedDevice, DecodedDevices, DecodedState, Unaccounted } from "./device-tree.js";
import { ProtocolError } from "./errors.js";
import { SECTION_EOF, SECTION_FULL } from "./main-stream.js";
import { TREE_NODES_MAX, type TreeBudget, TreeBuilder } from "./tree-builder.js";
import type { DeviceDescription, StateDescription, VmDescription } from "./vm-description.js";

const FOOTER_BYTES = 5;
/** What a header has before its name: the type byte and the section id. */
const SECTION_ID_BYTES = 5;

/**
 * Decodes the device sections of a stream's tail.
 *
 * @param bytes   From the first FULL section's type byte to the end-of-stream byte, which is the last one.
 * @param origin  Added to every place: where `bytes` begin in the file.
 * @returns What was decoded; nothing in the bytes makes it throw.
 */
export function decodeDeviceSections(bytes: Uint8Array, description: VmDescription, origin: number): DecodedDevices {
  return new DeviceDecoder(bytes, description, origin).decode();
}

class DeviceDecoder {
  readonly #bytes: Uint8Array;
  readonly #described: readonly DeviceDescription[];
  readonly #origin: number;
  readonly #budget: TreeBudget = { nodesLeft: TREE_NODES_MAX };
  readonly #devices: DecodedDevice[] = [];
  readonly #unaccounted: Unaccounted[] = [];
  #at = 0;

  constructor(bytes: Uint8Array, description: VmDescription, origin: number) {
    this.#bytes = bytes;
    this.#described = description.devices;
    this.#origin = origin;
  }

  decode(): DecodedDevices {
    const isWhole = this.#described.every((device, i) => this.#section(device, i));
    const eofAt = this.#bytes.length - 1;
    if (isWhole && this.#at < eofAt)
      this.#report(null, this.#at, eofAt, "they follow the last section that is described");
    if (isWhole && this.#at === eofAt && this.#bytes[eofAt] !== SECTION_EOF)
      this.#report(null, eofAt, eofAt + 1, "the end of the stream was due");
    return { devices: this.#devices, unaccounted: this.#unaccounted };
  }

  /** Decodes one section; false if its end cannot be found, and what follows cannot be told apart. */
  #section(device: DeviceDescription, index: number): boolean {
    const builder = new TreeBuilder(this.#bytes, this.#origin, this.#budget);
    const walk = new DeviceWalk(this.#bytes, builder, { at: this.#at, origin: this.#origin });
    const where = `section "${device.name}"`;
    let header: ReturnType<DeviceWalk["header"]>;
    try {
      header = walk.header(device);
    } catch (error) {
      this.#report(null, this.#at, this.#bytes.length, reasonOf(error));
      return false;
    }
    const dataAt = walk.at;
    const state = stateOf(device);
    let stateEnd: number | null = null;
    try {
      walk.state(state, where);
      stateEnd = walk.at;
      walk.footer(header.sectionId, where);
      this.#keep(device, header, builder.states[0]!, dataAt, stateEnd);
      return true;
    } catch (error) {
      const end = this.#findEnd(dataAt, this.#described[index + 1]);
      const readTo = stateEnd ?? walk.at;
      const stoppedAt = Math.min(readTo, end ?? readTo);
      builder.abandon(stoppedAt);
      // What lies behind the section's real end was read by mistake, all of it.
      const partial = end !== null && end < readTo ? undefined : builder.states[0];
      const tree = partial ?? emptyState(state, this.#origin + dataAt);
      const from = tree.fields.length === 0 && tree.subsections.length === 0 ? dataAt : stoppedAt;
      // Every field was read, so it is the footer that is wrong.
      const behind = end === from ? end + FOOTER_BYTES : end;
      this.#report(device.name, from, behind ?? this.#bytes.length, reasonOf(error));
      this.#keep(device, header, tree, dataAt, end ?? this.#bytes.length);
      return end !== null;
    }
  }

  #keep(
    device: DeviceDescription,
    { name, instanceId, version, sectionId, at }: ReturnType<DeviceWalk["header"]>,
    state: DecodedState,
    dataAt: number,
    end: number,
  ): void {
    this.#at = Math.min(end + FOOTER_BYTES, this.#bytes.length);
    this.#devices.push({
      name,
      instanceId,
      version,
      sectionId,
      vmsdName: "opaqueBytes" in device.state ? null : device.state.name,
      at: this.#origin + at,
      lengthBytes: this.#at - at,
      bytes: this.#bytes.subarray(dataAt, end),
      state,
    });
  }

  /** Where a section's footer is due, found by the header behind it (the footer itself may be what is damaged); null if nowhere. */
  #findEnd(from: number, next: DeviceDescription | undefined): number | null {
    const bytes = this.#bytes;
    const eofAt = bytes.length - 1;
    if (next === undefined) return eofAt - FOOTER_BYTES >= from ? eofAt - FOOTER_BYTES : null;
    const first = from + FOOTER_BYTES;
    for (let at = bytes.indexOf(SECTION_FULL, first); at >= 0; at = bytes.indexOf(SECTION_FULL, at + 1))
      if (isHeaderOf(bytes, at, next)) return at - FOOTER_BYTES;
    return null;
  }

  #report(section: string | null, from: number, end: number, reason: string): void {
    if (end > from) this.#unaccounted.push({ section, at: this.#origin + from, lengthBytes: end - from, reason });
  }
}

/** Old devices describe nothing: their state is one field of bytes, as QEMU itself lists it. */
function stateOf({ name, state }: DeviceDescription): StateDescription {
  if (!("opaqueBytes" in state)) return state;
  const { opaqueBytes } = state;
  const data = {
    name: "data",
    type: "buffer",
    elementBytes: opaqueBytes,
    count: 1,
    index: null,
    struct: null,
    parts: [],
  };
  return { name, version: 0, fields: [data], subsections: [] };
}

function emptyState({ name, version }: StateDescription, at: number): DecodedState {
  return { name, version, at, lengthBytes: 0, fields: [], subsections: [] };
}

/** Whether what lies behind a FULL section's type byte is that device's header. */
function isHeaderOf(bytes: Uint8Array, at: number, device: DeviceDescription): boolean {
  const { name, instanceId, state } = device;
  const due = new ByteWriter().name(name).u32(instanceId);
  if ("version" in state) due.u32(state.version);
  return due.finish().every((byte, i) => bytes[at + SECTION_ID_BYTES + i] === byte);
}

function reasonOf(error: unknown): string {
  if (error instanceof ProtocolError) return error.message;
  throw error;
}
