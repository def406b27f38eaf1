/**
 * Versioned memory data: the memory manager's state as releases up to 38.0 saved it.
 *
 * Their State is JSON around binary sections. This one has no field names and no header: fields
 * in order, little-endian, every list and text behind its length in 64 bits. From 39.0 on, and in every Config, the
 * same fields are JSON; so here they become that, and one reader serves both.
 *
 * Source: Cloud Hypervisor 25.0 to 38.0, vmm/src/memory_manager.rs, MemoryManagerSnapshotData; its serializer versionize 0.1, src/primitives.rs.
 */
import { ProtocolError } from "../errors.js";

/** More than 10 MiB of elements the serializer itself refuses to write. */
const LIST_MAX = 655_360;
/** What the serializer takes of a text. */
const TEXT_BYTES_MAX = 16_384;
const REGION_TYPES = ["Ram", "SubRegion", "Reserved"];

/**
 * The same data as JSON text, members in the order of the releases that write JSON.
 *
 * @throws {ProtocolError} MEMORY_DATA, with the byte, where the section is anything else.
 */
export function versionedMemoryJson(section: Uint8Array): string {
  const reader = new SectionReader(section);
  const u64 = () => reader.u64();
  const ranges = reader.list(() => `{"gpa":${u64()},"length":${u64()}}`);
  const mappings = reader.list(
    () =>
      `{"slot":${reader.u32()},"gpa":${u64()},"size":${u64()},"zone_id":${reader.text()},"virtio_mem":${reader.flag()},"file_offset":${u64()}}`,
  );
  const sizes = `"start_of_device_area":${u64()},"boot_ram":${u64()},"current_ram":${u64()}`;
  const regions = reader.list(() => `{"base":${u64()},"size":${u64()},"r_type":${reader.choice(REGION_TYPES)}}`);
  const slots = reader.list(
    () =>
      `{"base":${u64()},"length":${u64()},"active":${reader.flag()},"inserting":${reader.flag()},"removing":${reader.flag()}}`,
  );
  const next = `"next_memory_slot":${reader.u32()},"selected_slot":${u64()},"next_hotplug_slot":${u64()}`;
  reader.end();
  return `{"memory_ranges":{"data":${ranges}},"guest_ram_mappings":${mappings},${sizes},"arch_mem_regions":${regions},"hotplug_slots":${slots},${next}}`;
}

class SectionReader {
  readonly #bytes: Uint8Array;
  readonly #view: DataView;
  #at = 0;

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  u64(): bigint {
    return this.#view.getBigUint64(this.#take(8, "a 64-bit number"), true);
  }

  u32(): number {
    return this.#view.getUint32(this.#take(4, "a 32-bit number"), true);
  }

  flag(): boolean {
    const at = this.#take(1, "a flag");
    const value = this.#bytes[at]!;
    if (value > 1) throw this.#wrong(`byte ${at} is ${value}, a flag is 0 or 1`);
    return value === 1;
  }

  choice(names: readonly string[]): string {
    const index = this.u32();
    const name = names[index];
    if (name === undefined) throw this.#wrong(`before byte ${this.#at} stands choice ${index} of ${names.length}`);
    return JSON.stringify(name);
  }

  text(): string {
    const length = this.#length(TEXT_BYTES_MAX, "a text");
    const at = this.#take(length, "a text");
    try {
      return JSON.stringify(new TextDecoder("utf-8", { fatal: true }).decode(this.#bytes.subarray(at, at + length)));
    } catch {
      throw this.#wrong(`the text at byte ${at} is not UTF-8`);
    }
  }

  list(element: () => string): string {
    const length = this.#length(LIST_MAX, "a list");
    const texts: string[] = [];
    for (let i = 0; i < length; i++) texts.push(element());
    return `[${texts.join(",")}]`;
  }

  end(): void {
    const left = this.#bytes.length - this.#at;
    if (left > 0) throw this.#wrong(`${left} bytes follow its last field`);
  }

  #length(max: number, what: string): number {
    const length = this.u64();
    if (length > max) throw this.#wrong(`before byte ${this.#at} stands ${what} of ${length}, at most ${max} were due`);
    return Number(length);
  }

  #take(bytes: number, what: string): number {
    const at = this.#at;
    if (at + bytes > this.#bytes.length)
      throw this.#wrong(`it has ${this.#bytes.length} bytes and ends inside ${what} at byte ${at}`);
    this.#at += bytes;
    return at;
  }

  #wrong(what: string): ProtocolError {
    return new ProtocolError("MEMORY_DATA", `the memory manager's state: ${what}; is it of a release before 39.0?`);
  }
}
