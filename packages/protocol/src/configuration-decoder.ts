/**
 * Configuration decoder: machine type, page size, capabilities and UUID of the source.
 *
 * The configuration has no end mark: subsections follow the machine type's
 * name until a byte that opens something else. That byte is read here and
 * handed back.
 *
 * Source: QEMU 10.2, migration/savevm.c, vmstate_configuration.
 */

import { ByteWriter } from "./byte-writer.js";
import type { MainEvent, MainStreamLimits } from "./main-events.js";
import {
  CAPABILITIES_SUBSECTION,
  CAPABILITY_MAPPED_RAM,
  PAGE_BITS_SUBSECTION,
  SECTION_CONFIGURATION,
  SECTION_SUBSECTION,
  UUID_SUBSECTION,
} from "./main-stream.js";
import type { StreamReader } from "./stream-reader.js";
import { encodeText } from "./wire-text.js";

/** A stream is read as it comes; in a snapshot the reader steps over the pages. */
export type StreamForm = "stream" | "snapshot";

export type Configuration = Extract<MainEvent, { kind: "configuration" }>;

const WHAT = "configuration";
const PAGE_BITS_FIXED = 12;
const PAGE_BITS_MIN = 10;
const PAGE_BITS_MAX = 16;
const CAPABILITIES_MAX = 64;

/** In the order that they come. */
const SUBSECTIONS = [PAGE_BITS_SUBSECTION, CAPABILITIES_SUBSECTION, UUID_SUBSECTION];

/**
 * Decodes the configuration behind its section type.
 *
 * @param form  What the bytes come from: a stream cannot have the gaps that capability mapped-ram leaves, a snapshot
 *   without that capability has none.
 * @returns The event, and the section type that follows the configuration.
 * @throws {ProtocolError} STREAM_CONFIGURATION or STREAM_MAPPED_RAM.
 */
export async function decodeConfiguration(
  reader: StreamReader,
  limits: MainStreamLimits,
  form: StreamForm,
): Promise<{ readonly configuration: Configuration; readonly nextType: number }> {
  const refused = (message: string) => reader.refused("STREAM_CONFIGURATION", WHAT, message);
  const verbatim = new ByteWriter().u8(SECTION_CONFIGURATION);
  const length = await reader.u32(WHAT);
  if (length === 0 || length > limits.machineTypeBytesMax)
    throw refused(
      `the machine type has ${length} bytes, 1 to ${limits.machineTypeBytesMax} were due; the stream is damaged`,
    );
  const machineType = await reader.text(length, "machine type");
  verbatim.u32(length).bytes(encodeText(machineType));

  let pageBits = PAGE_BITS_FIXED;
  let capabilities: string[] = [];
  let uuid: Uint8Array | null = null;
  let order = 0;
  let nextType = await reader.u8("section type");
  for (; nextType === SECTION_SUBSECTION; nextType = await reader.u8("section type")) {
    const name = await reader.name(WHAT);
    const version = await reader.u32(WHAT);
    const place = SUBSECTIONS.indexOf(name, order);
    if (place < 0 || version !== 1)
      throw refused(
        `subsection "${name}" version ${version} came, one of ${SUBSECTIONS.slice(order).join(", ") || "none"} version 1 was due; the source is newer than this program, or the stream is damaged`,
      );
    order = place + 1;
    verbatim.u8(SECTION_SUBSECTION).name(name).u32(version);
    if (place === 0) {
      pageBits = await reader.u32(name);
      if (pageBits < PAGE_BITS_MIN || pageBits > PAGE_BITS_MAX)
        throw refused(
          `target page bits are ${pageBits}, ${PAGE_BITS_MIN} to ${PAGE_BITS_MAX} were due; the stream is damaged`,
        );
      verbatim.u32(pageBits);
    } else if (place === 1) {
      capabilities = await decodeCapabilities(reader, form);
      verbatim.u32(capabilities.length);
      for (const capability of capabilities) verbatim.name(capability);
    } else {
      uuid = await reader.bytes(16, name);
      verbatim.bytes(uuid);
    }
  }
  if (form === "snapshot" && !capabilities.includes(CAPABILITY_MAPPED_RAM)) {
    const message =
      "capability mapped-ram is off: this is a plain migration stream, not a snapshot; save it with that capability on";
    throw reader.refused("SNAPSHOT_NOT_MAPPED", WHAT, message);
  }
  const pageBytes = 2 ** pageBits;
  const bytes = verbatim.finish();
  return { configuration: { kind: WHAT, machineType, pageBytes, capabilities, uuid, bytes }, nextType };
}

async function decodeCapabilities(reader: StreamReader, form: StreamForm): Promise<string[]> {
  const what = "list of capabilities";
  const count = await reader.u32(what);
  if (count > CAPABILITIES_MAX) {
    const message = `${count} capabilities came, at most ${CAPABILITIES_MAX} were due; the stream is damaged`;
    throw reader.refused("STREAM_CONFIGURATION", what, message);
  }
  const capabilities: string[] = [];
  for (let i = 0; i < count; i++) capabilities.push(await reader.name(what));
  if (form === "stream" && capabilities.includes(CAPABILITY_MAPPED_RAM)) {
    const message =
      "capability mapped-ram is on: this is a snapshot file, not a stream; read it as a file, or switch mapped-ram off on the source";
    throw reader.refused("STREAM_MAPPED_RAM", what, message);
  }
  return capabilities;
}
