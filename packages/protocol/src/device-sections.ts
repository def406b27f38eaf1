/**
 * Device sections: finds where each one begins and ends, by walking its fields.
 *
 * Nothing in a device section says how long it is. The walk follows the VM
 * description through headers, fields, nested structs, subsections and
 * footers, and accounts for every byte; one byte that does not fit is an
 * error with section, field and place. So a description that lies, or an end
 * of stream found at the wrong place, cannot pass.
 *
 * Whoever wants more than places listens to the walk (`WalkListener`).
 *
 * Source: QEMU 10.2, migration/savevm.c, save_section_header(); migration/vmstate.c, vmstate_subsection_save().
 */

import { ProtocolError } from "./errors.js";
import { viewOf } from "./layout.js";
import { SECTION_EOF, SECTION_FOOTER, SECTION_FULL, SECTION_SUBSECTION } from "./main-stream.js";
import type { DeviceDescription, FieldDescription, StateDescription, VmDescription } from "./vm-description.js";

/** A device section's identity and place. */
export type DeviceSection = {
  readonly name: string;
  readonly instanceId: number;
  readonly version: number;
  readonly sectionId: number;
  /** Where its type byte lies in the walked bytes. */
  readonly at: number;
  /** Header and footer included. */
  readonly lengthBytes: number;
};

/** Hears what a walk passes, in order; `at` is where it begins or has ended. */
export type WalkListener = {
  /** A device's state, an element of the field that is open, or else a subsection of the state that is open. */
  readonly openState: (state: StateDescription, at: number) => void;
  readonly closeState: (at: number) => void;
  readonly openField: (field: FieldDescription, at: number) => void;
  readonly closeField: (at: number) => void;
};

/**
 * Walks device sections from the first FULL section to the end-of-stream byte.
 *
 * @param bytes  Starts with a FULL section, or with the end-of-stream byte if there is none; what follows that byte is not looked at.
 * @returns The sections in order, and where the end-of-stream byte lies.
 * @throws {ProtocolError} DEVICE_SECTION, naming section, field and byte.
 */
export function walkDeviceSections(
  bytes: Uint8Array,
  description: VmDescription,
): { readonly sections: readonly DeviceSection[]; readonly end: number } {
  const walk = new DeviceWalk(bytes);
  const sections = description.devices.map((device) => walk.section(device));
  walk.expect(SECTION_EOF, "after the last device section");
  return { sections, end: walk.at - 1 };
}

/** Fields a walk may visit: nested arrays of empty fields must not keep us here for ever. */
const FIELDS_MAX = 2 ** 26;

/** Holds the place in the bytes while the description is followed. */
export class DeviceWalk {
  readonly #bytes: Uint8Array;
  readonly #view: DataView;
  readonly #listener: WalkListener | null;
  readonly #origin: number;
  at: number;
  #fields = 0;

  /** @param place  Where the walk starts, and what is added to a place when a message names it. */
  constructor(
    bytes: Uint8Array,
    listener: WalkListener | null = null,
    place: { readonly at: number; readonly origin: number } = { at: 0, origin: 0 },
  ) {
    this.#bytes = bytes;
    this.#view = viewOf(bytes);
    this.#listener = listener;
    this.#origin = place.origin;
    this.at = place.at;
  }

  section(device: DeviceDescription): DeviceSection {
    const header = this.header(device);
    const where = `section "${device.name}"`;
    if ("opaqueBytes" in device.state) this.#skip(device.state.opaqueBytes, where);
    else this.state(device.state, where);
    this.footer(header.sectionId, where);
    return { ...header, lengthBytes: this.at - header.at };
  }

  /** From the type byte to the version, which must be as described. */
  header(device: DeviceDescription): Omit<DeviceSection, "lengthBytes"> {
    const at = this.at;
    const where = `section "${device.name}"`;
    this.expect(SECTION_FULL, where);
    const sectionId = this.u32(where);
    this.#expectName(device.name, where);
    const instanceId = this.u32(where);
    const version = this.u32(where);
    if (instanceId !== device.instanceId)
      throw this.refused(where, `instance ${instanceId} came, ${device.instanceId} was due`);
    if ("version" in device.state && version !== device.state.version)
      throw this.refused(where, `version ${version} came, ${device.state.version} was due`);
    return { name: device.name, instanceId, version, sectionId, at };
  }

  footer(sectionId: number, where: string): void {
    this.expect(SECTION_FOOTER, `${where}, footer`);
    const footerId = this.u32(where);
    if (footerId !== sectionId)
      throw this.refused(`${where}, footer`, `section id ${footerId} came, ${sectionId} was due`);
  }

  expect(due: number, where: string): void {
    this.#skip(1, where);
    const came = this.#bytes[this.at - 1]!;
    if (came === due) return;
    this.at -= 1;
    throw this.refused(where, `0x${came.toString(16)} came, 0x${due.toString(16)} was due`);
  }

  state(state: StateDescription, where: string): void {
    this.#listener?.openState(state, this.at);
    for (const field of state.fields) this.#field(field, where);
    for (const subsection of state.subsections) {
      const within = `${where}, subsection "${subsection.name}"`;
      this.expect(SECTION_SUBSECTION, within);
      this.#expectName(subsection.name, within);
      const version = this.u32(within);
      if (version !== subsection.version)
        throw this.refused(within, `version ${version} came, ${subsection.version} was due`);
      this.state(subsection, within);
    }
    this.#listener?.closeState(this.at);
  }

  #field(field: FieldDescription, where: string): void {
    const within = `${where}, field "${field.name}"`;
    this.#fields += 1;
    if (this.#fields > FIELDS_MAX) throw this.refused(within, `more than ${FIELDS_MAX} fields were described`);
    this.#listener?.openField(field, this.at);
    this.#elements(field, within);
    this.#listener?.closeField(this.at);
  }

  #elements({ struct, elementBytes, count }: FieldDescription, within: string): void {
    if (struct === null) {
      this.#skip(elementBytes * count, within);
      return;
    }
    if (elementBytes === 0) return; // moves nothing, however many there are
    for (let element = 0; element < count; element++) {
      const start = this.at;
      this.state(struct, within);
      if (this.at - start !== elementBytes)
        throw this.refused(within, `its parts take ${this.at - start} bytes, ${elementBytes} were due`);
    }
  }

  #expectName(due: string, where: string): void {
    const length = this.#u8(where);
    this.#skip(length, where);
    const name = this.#bytes.subarray(this.at - length, this.at);
    const came = String.fromCharCode(...name);
    if (came === due) return;
    this.at -= length;
    throw this.refused(where, `the name ${JSON.stringify(came)} came, "${due}" was due`);
  }

  #u8(where: string): number {
    this.#skip(1, where);
    return this.#bytes[this.at - 1]!;
  }

  u32(where: string): number {
    this.#skip(4, where);
    return this.#view.getUint32(this.at - 4);
  }

  /** Exact: a bigint where a number could not hold it. */
  u64(where: string): number | bigint {
    this.#skip(8, where);
    const value = this.#view.getBigUint64(this.at - 8);
    return value <= Number.MAX_SAFE_INTEGER ? Number(value) : value;
  }

  #skip(bytes: number, where: string): void {
    const left = this.#bytes.length - this.at;
    if (bytes > left) throw this.refused(where, `${bytes} bytes were due, ${left} are left`);
    this.at += bytes;
  }

  refused(where: string, what: string): ProtocolError {
    const message = `device state, byte ${this.#origin + this.at}, ${where}: ${what}; the stream is damaged, or a device describes itself wrongly`;
    return new ProtocolError("DEVICE_SECTION", message);
  }
}
