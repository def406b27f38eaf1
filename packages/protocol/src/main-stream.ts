/**
 * Main stream: what the source sends on the main channel, piece by piece.
 *
 *   QEVM 3 │ configuration │ commands │ RAM start … RAM part … RAM complete │ device sections │ 00 │ 06 description
 *
 * The encoders give the pieces; their order, and the SYNC packets that must be
 * on the channels before a FLUSH, are the engine's affair. A RAM section is
 * written in steps, since the set-up SYNC falls between its block list and its end:
 *
 *   encodeRamStart, (SYNC on every channel), encodeFlush, encodeRamSectionEnd
 *
 * Source: QEMU 10.2, migration/savevm.c, qemu_savevm_state_header(); migration/ram.c, ram_save_setup().
 */

import { ByteWriter } from "./byte-writer.js";
import { encodeHello, type Hello } from "./hello.js";
import { encodeText } from "./wire-text.js";

export const FILE_MAGIC = 0x5145564d; // "QEVM"
export const FILE_VERSION = 3;

/** What a connection's first bytes are if it is the main channel. */
export const MAIN_MAGIC_BYTES: Uint8Array = Uint8Array.of(0x51, 0x45, 0x56, 0x4d);

/** Section types: the byte that opens every piece of the stream. */
export const SECTION_EOF = 0x00;
export const SECTION_START = 0x01;
export const SECTION_PART = 0x02;
export const SECTION_END = 0x03;
export const SECTION_FULL = 0x04;
export const SECTION_SUBSECTION = 0x05;
export const SECTION_DESCRIPTION = 0x06;
export const SECTION_CONFIGURATION = 0x07;
export const SECTION_COMMAND = 0x08;
export const SECTION_FOOTER = 0x7e;

export const COMMAND_OPEN_RETURN_PATH = 1;
export const COMMAND_PING = 2;
export const COMMAND_SWITCHOVER_START = 11;
/** Ours, far above QEMU's: says what hello.ts holds. */
export const COMMAND_HELLO = 0x4d46;

/** Identity of the RAM section. */
export const RAM_SECTION = "ram";
export const RAM_SECTION_VERSION = 4;

/** Flags of a RAM record, in the low bits of its page offset. */
export const RECORD_ZERO = 0x002;
export const RECORD_MEM_SIZE = 0x004;
export const RECORD_PAGE = 0x008;
export const RECORD_EOS = 0x010;
export const RECORD_CONTINUE = 0x020;
export const RECORD_XBZRLE = 0x040;
export const RECORD_HOOK = 0x080;
export const RECORD_COMPRESSED_PAGE = 0x100;
export const RECORD_FLUSH = 0x200;

export const CAPABILITY_IGNORE_SHARED = "x-ignore-shared";
export const CAPABILITY_MAPPED_RAM = "mapped-ram";

/** Subsections of the configuration, in the order that they come. */
export const PAGE_BITS_SUBSECTION = "configuration/target-page-bits";
export const CAPABILITIES_SUBSECTION = "configuration/capabilities";
export const UUID_SUBSECTION = "configuration/uuid";

/** What the source tells about itself; the destination compares it with its own. */
export type StreamConfiguration = {
  readonly machineType: string;
  /** Only for targets whose page size varies (aarch64); left out where it is 4096 for good. */
  readonly targetPageBits?: number;
  /** Of all capabilities only `x-ignore-shared` and `mapped-ram` are ever listed. */
  readonly capabilities?: readonly string[];
  readonly uuid?: Uint8Array;
};

export type StreamCommand =
  | { readonly name: "open-return-path" }
  | { readonly name: "ping"; readonly value: number }
  | { readonly name: "switchover-start" }
  | { readonly name: "hello"; readonly hello: Hello };

/** A RAM block as the block list names it. */
export type RamBlockEntry = {
  readonly name: string;
  readonly lengthBytes: number;
  /** Sent if, and only if, the configuration lists `x-ignore-shared`. */
  readonly address?: number;
};

export function encodeFileHeader(): Uint8Array<ArrayBuffer> {
  return new ByteWriter().u32(FILE_MAGIC).u32(FILE_VERSION).finish();
}

/** The configuration, its section type included. */
export function encodeConfiguration(configuration: StreamConfiguration): Uint8Array<ArrayBuffer> {
  const { machineType, targetPageBits, capabilities, uuid } = configuration;
  const name = encodeText(machineType);
  const out = new ByteWriter().u8(SECTION_CONFIGURATION).u32(name.length).bytes(name);
  const subsection = (title: string): ByteWriter => out.u8(SECTION_SUBSECTION).name(title).u32(1);
  if (targetPageBits !== undefined) subsection(PAGE_BITS_SUBSECTION).u32(targetPageBits);
  if (capabilities !== undefined) putCapabilities(out, capabilities);
  if (uuid !== undefined) subsection(UUID_SUBSECTION).bytes(uuid);
  return out.finish();
}

/** The subsection that lists capabilities; nothing where there are none. */
export function putCapabilities(out: ByteWriter, capabilities: readonly string[]): void {
  if (capabilities.length === 0) return;
  out.u8(SECTION_SUBSECTION).name(CAPABILITIES_SUBSECTION).u32(1).u32(capabilities.length);
  for (const capability of capabilities) out.name(capability);
}

export function encodeCommand(command: StreamCommand): Uint8Array<ArrayBuffer> {
  const out = new ByteWriter().u8(SECTION_COMMAND);
  switch (command.name) {
    case "open-return-path":
      return out.u16(COMMAND_OPEN_RETURN_PATH).u16(0).finish();
    case "ping":
      return out.u16(COMMAND_PING).u16(4).u32(command.value).finish();
    case "switchover-start":
      return out.u16(COMMAND_SWITCHOVER_START).u16(0).finish();
    case "hello": {
      const body = encodeHello(command.hello);
      return out.u16(COMMAND_HELLO).u16(body.length).bytes(body).finish();
    }
  }
}

/** What stands in front of the block list's first entry: the section's header, and the length of all blocks. */
export function encodeRamListHead(sectionId: number, blocks: readonly RamBlockEntry[]): Uint8Array<ArrayBuffer> {
  const out = new ByteWriter().u8(SECTION_START).u32(sectionId).name(RAM_SECTION).u32(0).u32(RAM_SECTION_VERSION);
  return out.u64(blocks.reduce((sum, block) => sum + block.lengthBytes, 0) + RECORD_MEM_SIZE).finish();
}

/** Opens the RAM section with its block list; `encodeRamSectionEnd` closes it. */
export function encodeRamStart(sectionId: number, blocks: readonly RamBlockEntry[]): Uint8Array<ArrayBuffer> {
  const out = new ByteWriter().bytes(encodeRamListHead(sectionId, blocks));
  for (const { name, lengthBytes, address } of blocks) {
    out.name(name).u64(lengthBytes);
    if (address !== undefined) out.u64(address);
  }
  return out.finish();
}

/** Opens a further RAM section, while the guest runs. */
export function encodeRamPart(sectionId: number): Uint8Array<ArrayBuffer> {
  return new ByteWriter().u8(SECTION_PART).u32(sectionId).finish();
}

/** Opens the last RAM section, when the guest has stopped. */
export function encodeRamComplete(sectionId: number): Uint8Array<ArrayBuffer> {
  return new ByteWriter().u8(SECTION_END).u32(sectionId).finish();
}

/** MULTIFD_FLUSH: every channel has a SYNC for this record. */
export function encodeFlush(): Uint8Array<ArrayBuffer> {
  return new ByteWriter().u64(RECORD_FLUSH).finish();
}

/** Ends a RAM section: EOS and the footer. With legacy sync every channel has a SYNC for it. */
export function encodeRamSectionEnd(sectionId: number): Uint8Array<ArrayBuffer> {
  return new ByteWriter().u64(RECORD_EOS).u8(SECTION_FOOTER).u32(sectionId).finish();
}

/** A zero page; `block` null repeats the block of the record before. */
export function encodeZeroPage(block: string | null, offsetBytes: number): Uint8Array<ArrayBuffer> {
  return encodeRecord(RECORD_ZERO, block, offsetBytes).u8(0).finish();
}

/** Zero pages of one block in one go: the first names the block, the others repeat it. */
export function encodeZeroPages(block: string, pages: Uint32Array, pageBytes: number): Uint8Array<ArrayBuffer> {
  const out = new ByteWriter();
  for (let i = 0; i < pages.length; i++) {
    const offset = pages[i]! * pageBytes;
    if (i === 0) out.u64(offset + RECORD_ZERO).name(block);
    else out.u64(offset + RECORD_ZERO + RECORD_CONTINUE);
    out.u8(0);
  }
  return out.finish();
}

/** A page with its bytes; `block` null repeats the block of the record before. */
export function encodePage(block: string | null, offsetBytes: number, page: Uint8Array): Uint8Array<ArrayBuffer> {
  return encodeRecord(RECORD_PAGE, block, offsetBytes).bytes(page).finish();
}

function encodeRecord(flag: number, block: string | null, offsetBytes: number): ByteWriter {
  const out = new ByteWriter();
  return block === null ? out.u64(offsetBytes + flag + RECORD_CONTINUE) : out.u64(offsetBytes + flag).name(block);
}

/** Ends the stream behind the device sections, with the description of their fields. */
export function encodeStreamEnd(description: string): Uint8Array<ArrayBuffer> {
  const text = encodeText(description);
  return new ByteWriter().u8(SECTION_EOF).u8(SECTION_DESCRIPTION).u32(text.length).bytes(text).finish();
}

/** The description of a stream without device sections. */
export function emptyVmDescription(pageBytes: number): string {
  return JSON.stringify({ page_size: pageBytes, devices: [] });
}
