/**
 * Main stream decoder: turns the main channel's bytes into events.
 *
 *   header │ configuration │ { command │ RAM section }… │ device sections │ end of stream │ description
 *
 * It takes what a precopy migration sends and refuses the rest by name, with
 * what to switch off: a stream half understood must not become half a guest.
 * It reads no further than it must before it emits, for the sender may wait
 * for what an event causes (a PONG, a SYNC barrier released).
 *
 * Source: QEMU 10.2, migration/savevm.c, qemu_loadvm_state_main().
 */

import type { ByteSource, SeekableSource } from "./byte-source.js";
import { type Configuration, decodeConfiguration, type StreamForm } from "./configuration-decoder.js";
import { decodeHello, HELLO_BYTES_MAX } from "./hello.js";
import { DEFAULT_LIMITS, type MainEvent, type MainStreamLimits, type RamPhase, type TailCheck } from "./main-events.js";
import {
  CAPABILITY_IGNORE_SHARED,
  COMMAND_HELLO,
  COMMAND_OPEN_RETURN_PATH,
  COMMAND_PING,
  COMMAND_SWITCHOVER_START,
  FILE_MAGIC,
  FILE_VERSION,
  RAM_SECTION,
  RAM_SECTION_VERSION,
  SECTION_COMMAND,
  SECTION_CONFIGURATION,
  SECTION_END,
  SECTION_EOF,
  SECTION_FOOTER,
  SECTION_FULL,
  SECTION_PART,
  SECTION_START,
} from "./main-stream.js";
import { RamSectionDecoder } from "./ram-section-decoder.js";
import { StreamReader } from "./stream-reader.js";
import { decodeStreamTail } from "./stream-tail.js";

/**
 * Decodes a main stream from its first byte to the description's last.
 *
 * @param limits  Where they differ from the defaults.
 * @param check   What the end of device state is taken for.
 * @throws {ProtocolError} what is refused, with the byte it came at.
 * @throws {ChannelError} STREAM_CUT, if the stream ends early.
 */
export function decodeMainStream(
  source: ByteSource,
  limits: Partial<MainStreamLimits> = {},
  check: TailCheck = "walked",
): AsyncGenerator<MainEvent> {
  return decodeStream(new StreamReader(source, "main channel"), { ...DEFAULT_LIMITS, ...limits }, check, null);
}

/**
 * Decodes a mapped-ram snapshot, stepping over its pages: the same events, each block with its place in the file.
 *
 * @param source  Its positions are offsets in the file.
 * @throws {ProtocolError} what is refused, with the byte it came at.
 * @throws {ChannelError} STREAM_CUT, if the file ends early.
 */
export function decodeMappedRamStream(
  source: SeekableSource,
  limits: Partial<MainStreamLimits> = {},
  check: TailCheck = "walked",
): AsyncGenerator<MainEvent> {
  return decodeStream(new StreamReader(source, "snapshot"), { ...DEFAULT_LIMITS, ...limits }, check, source);
}

async function* decodeStream(
  reader: StreamReader,
  bounds: MainStreamLimits,
  check: TailCheck,
  gaps: SeekableSource | null,
): AsyncGenerator<MainEvent> {
  await decodeFileHeader(reader);
  const form = gaps === null ? "stream" : "snapshot";
  const { configuration, nextType } = await decodeConfigurationSection(reader, bounds, form);
  yield configuration;

  const hasAddresses = configuration.capabilities.includes(CAPABILITY_IGNORE_SHARED);
  const ram = new RamSectionDecoder(reader, configuration.pageBytes, hasAddresses, bounds, gaps);
  let ramSectionId: number | null = null;
  let ramComplete = false;
  for (let type = nextType; ; type = await reader.u8("section type")) {
    if (type === SECTION_COMMAND) {
      yield await decodeCommand(reader);
    } else if (type === SECTION_START && ramSectionId === null) {
      ramSectionId = await decodeRamHeader(reader);
      yield* decodeRamSection(reader, ram, ramSectionId, "setup");
    } else if ((type === SECTION_PART || type === SECTION_END) && ramSectionId !== null && !ramComplete) {
      await checkSectionId(reader, ramSectionId);
      ramComplete = type === SECTION_END;
      yield* decodeRamSection(reader, ram, ramSectionId, ramComplete ? "complete" : "iterate");
    } else if ((type === SECTION_FULL || type === SECTION_EOF) && ramComplete) {
      yield await decodeStreamTail(reader, type, bounds, check);
      return;
    } else {
      throw await refusedSection(reader, type);
    }
  }
}

async function decodeFileHeader(reader: StreamReader): Promise<void> {
  const what = "file header";
  const magic = await reader.u32(what);
  if (magic !== FILE_MAGIC) {
    const message = `0x${magic.toString(16)} came, 0x${FILE_MAGIC.toString(16)} ("QEVM") was due; this is no QEMU migration stream`;
    throw reader.refused("STREAM_MAGIC", what, message);
  }
  const version = await reader.u32(what);
  if (version === FILE_VERSION) return;
  const remedy = version === 2 ? "version 2 is obsolete; save the VM with a newer QEMU" : "the stream is damaged";
  throw reader.refused("STREAM_VERSION", what, `version ${version} came, ${FILE_VERSION} was due; ${remedy}`);
}

async function decodeConfigurationSection(
  reader: StreamReader,
  limits: MainStreamLimits,
  form: StreamForm,
): Promise<{ readonly configuration: Configuration; readonly nextType: number }> {
  const type = await reader.u8("section type");
  if (type === SECTION_CONFIGURATION) return decodeConfiguration(reader, limits, form);
  const message = `section type 0x${type.toString(16)} came, the configuration (0x7) was due; use a machine type of 2.4 or later`;
  throw reader.refused("STREAM_CONFIGURATION", "section type", message);
}

/** Commands by number, with the length of what follows. */
const COMMANDS: ReadonlyMap<
  number,
  { readonly name: "open-return-path" | "ping" | "switchover-start"; readonly length: number }
> = new Map([
  [COMMAND_OPEN_RETURN_PATH, { name: "open-return-path", length: 0 }],
  [COMMAND_PING, { name: "ping", length: 4 }],
  [COMMAND_SWITCHOVER_START, { name: "switchover-start", length: 0 }],
]);

const POSTCOPY_REMEDY = "switch capability postcopy-ram off on the source";

/** Commands that we do not follow, and what makes a source send them. */
const REFUSED_COMMANDS: ReadonlyMap<number, readonly [name: string, remedy: string]> = new Map([
  [3, ["POSTCOPY_ADVISE", POSTCOPY_REMEDY]],
  [4, ["POSTCOPY_LISTEN", POSTCOPY_REMEDY]],
  [5, ["POSTCOPY_RUN", POSTCOPY_REMEDY]],
  [6, ["POSTCOPY_RAM_DISCARD", POSTCOPY_REMEDY]],
  [7, ["PACKAGED", POSTCOPY_REMEDY]],
  [8, ["ENABLE_COLO", "switch capability x-colo off on the source"]],
  [9, ["POSTCOPY_RESUME", POSTCOPY_REMEDY]],
  [10, ["RECV_BITMAP", POSTCOPY_REMEDY]],
]);

async function decodeCommand(reader: StreamReader): Promise<MainEvent> {
  const what = "command";
  const number = await reader.u16(what);
  const length = await reader.u16(what);
  if (number === COMMAND_HELLO) return decodeHelloCommand(reader, length);
  const command = COMMANDS.get(number);
  if (command === undefined) {
    const [name, remedy] = REFUSED_COMMANDS.get(number) ?? ["unknown", "the source is newer than this program"];
    throw reader.refused(
      "STREAM_COMMAND",
      what,
      `command ${number} (${name}) came, which is not followed here; ${remedy}`,
    );
  }
  if (length !== command.length) {
    const message = `command ${command.name} came with ${length} bytes, ${command.length} were due; the stream is damaged`;
    throw reader.refused("STREAM_COMMAND", what, message);
  }
  if (command.name === "ping") return { kind: "command", name: command.name, value: await reader.u32(what) };
  return { kind: "command", name: command.name };
}

async function decodeHelloCommand(reader: StreamReader, length: number): Promise<MainEvent> {
  if (length > HELLO_BYTES_MAX) {
    const message = `it has ${length} bytes, ${HELLO_BYTES_MAX} are the most; the stream is damaged`;
    throw reader.refused("HELLO_SIZE", "hello", message);
  }
  const hello = decodeHello(await reader.bytes(length, "hello"));
  return { kind: "command", name: "hello", hello, bytes: 1 + 2 + 2 + length };
}

/** Reads a START section's header; only RAM's is taken. */
async function decodeRamHeader(reader: StreamReader): Promise<number> {
  const { sectionId, name, instanceId, version } = await decodeSectionHeader(reader);
  if (name !== RAM_SECTION) throw refusedIterable(reader, name);
  if (instanceId === 0 && version === RAM_SECTION_VERSION) return sectionId;
  const message = `instance ${instanceId} version ${version} came, instance 0 version ${RAM_SECTION_VERSION} was due; the source is too old or too new`;
  throw reader.refused("STREAM_SECTION", 'section "ram"', message);
}

async function decodeSectionHeader(reader: StreamReader) {
  const what = "section header";
  return {
    sectionId: await reader.u32(what),
    name: await reader.name(what),
    instanceId: await reader.u32(what),
    version: await reader.u32(what),
  };
}

function refusedIterable(reader: StreamReader, name: string): Error {
  const remedy = name.endsWith("/vfio")
    ? "detach the VFIO device, or set its enable-migration to off, on the source"
    : name === "dirty-bitmap"
      ? "switch capability dirty-bitmaps off on the source"
      : "detach what saves this state on the source";
  const message = `the section ${JSON.stringify(name)} came, whose data only its device understands; ${remedy}`;
  return reader.refused("STREAM_SECTION_UNSUPPORTED", "section header", message);
}

async function checkSectionId(reader: StreamReader, due: number): Promise<void> {
  const came = await reader.u32("section header");
  if (came === due) return;
  const message = `section id ${came} came, that of "ram" (${due}) was due; the stream is damaged`;
  throw reader.refused("STREAM_SECTION", "section header", message);
}

async function* decodeRamSection(
  reader: StreamReader,
  ram: RamSectionDecoder,
  sectionId: number,
  phase: RamPhase,
): AsyncGenerator<MainEvent> {
  yield* ram.decode(sectionId, phase);
  const what = "footer of a RAM section";
  const mark = await reader.u8(what);
  const id = await reader.u32(what);
  if (mark === SECTION_FOOTER && id === sectionId) return;
  const message = `0x${mark.toString(16)} with section id ${id} came, 0x7e with ${sectionId} was due; the stream is damaged`;
  throw reader.refused("STREAM_FOOTER", what, message);
}

/** Names what came out of turn. */
async function refusedSection(reader: StreamReader, type: number): Promise<Error> {
  if (type === SECTION_START) {
    const { name } = await decodeSectionHeader(reader);
    if (name !== RAM_SECTION) return refusedIterable(reader, name);
    return reader.refused(
      "STREAM_SECTION",
      "section header",
      'section "ram" starts a second time; the stream is damaged',
    );
  }
  if (type === SECTION_FULL) {
    const { name } = await decodeSectionHeader(reader);
    const message = `the section ${JSON.stringify(name)} came before the end of RAM, where its length cannot be told; set x-early-migration to off for virtio-mem on the source`;
    return reader.refused("STREAM_SECTION_UNSUPPORTED", "section header", message);
  }
  const what =
    type === SECTION_EOF
      ? "the end of the stream came before the end of RAM"
      : `section type 0x${type.toString(16)} came, which is not due here`;
  return reader.refused("STREAM_SECTION", "section type", `${what}; the stream is damaged`);
}
