/**
 * Subsections: optional state behind a description's fields, each with its name and version.
 *
 * A table lists the subsections of one description in the order in which they
 * are saved, and both reading and writing walk it. What bears the description's
 * name and is not in the table, or not at its place, or there twice, is refused:
 * a destination that skipped it would run a guest with half its state.
 *
 * Source: QEMU 10.2, migration/vmstate.c, vmstate_subsection_load().
 */

import type { ByteWriter } from "../byte-writer.js";
import { SECTION_SUBSECTION } from "../main-stream.js";
import type { StateReader } from "./state-reader.js";

export type SubsectionFormat<V> = {
  readonly name: string;
  /** Versions that can be read, oldest first. */
  readonly versions: readonly number[];
  readonly read: (reader: StateReader, version: number) => V;
  readonly write: (out: ByteWriter, value: V) => void;
  /** The version that a value is written in; the newest unless given. */
  readonly versionOf?: (value: V) => number;
};

/** A table of subsections, in the order of the wire. */
export type SubsectionTable = Readonly<Record<string, SubsectionFormat<never>>>;

/** What a table's subsections hold; a subsection that was not sent has no key. */
export type SubsectionValues<T> = {
  readonly [K in keyof T]?: T[K] extends { readonly read: (...args: never) => infer V } ? V : never;
};

/**
 * Reads the subsections that follow.
 *
 * @param prefix  The name of the description they belong to, with which their names begin.
 * @throws {ProtocolError} VIRTIO_SUBSECTION for an unknown one, VIRTIO_SUBSECTION_VERSION for a newer one.
 */
export function readSubsections<T>(reader: StateReader, prefix: string, table: T): SubsectionValues<T> {
  const values: Record<string, unknown> = {};
  for (const [key, format] of formatsOf(table)) {
    if (reader.peekSubsection(prefix) !== format.name) continue;
    const { name, version } = reader.subsection();
    if (!format.versions.includes(version)) {
      const message = `version ${version} came, ${format.versions.at(-1)} at most was due; the device is newer than this program`;
      throw reader.refused("VIRTIO_SUBSECTION_VERSION", `subsection "${name}"`, message);
    }
    values[key] = format.read(reader, version);
  }
  const next = reader.peekSubsection(prefix);
  if (next === null) return values as SubsectionValues<T>;
  const known = formatsOf(table).some(([, format]) => format.name === next);
  const problem = known ? "comes twice or out of its order" : "is unknown";
  throw reader.refused(
    "VIRTIO_SUBSECTION",
    `subsection ${JSON.stringify(next)}`,
    `it ${problem}; the section is damaged, or its device is newer than this program`,
  );
}

/** Writes subsections in the table's order. */
export function writeSubsections<T>(out: ByteWriter, table: T, values: SubsectionValues<T>): void {
  for (const [key, format] of formatsOf(table)) {
    const value = (values as Readonly<Record<string, unknown>>)[key];
    if (value === undefined) continue;
    const version = format.versionOf?.(value as never) ?? format.versions.at(-1)!;
    out.u8(SECTION_SUBSECTION).name(format.name).u32(version);
    format.write(out, value as never);
  }
}

function formatsOf(table: unknown): [string, SubsectionFormat<never>][] {
  return Object.entries(table as SubsectionTable);
}
