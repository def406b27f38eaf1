/**
 * Mappings: guest RAM as shared memory in this process, known by address and length.
 *
 * JavaScript never sees these bytes as an ArrayBuffer; it passes the address on.
 * Whoever maps unmaps, and only after every worker has let go: a page touched
 * after that kills the process.
 */
import { call } from "./library.js";
import { checked } from "./native-result.js";

export type Mapping = { readonly address: number; readonly lengthBytes: number };

/**
 * Maps part of a file, shared. The descriptor may be closed afterwards.
 *
 * @param map  Offset and length, which must lie inside the file: memory behind its end would kill the process.
 */
export function mapFile(
  fd: number,
  map: { readonly lengthBytes: number; readonly offsetBytes?: number; readonly writable: boolean },
): Mapping {
  const { lengthBytes, offsetBytes = 0, writable } = map;
  const address = checked(
    call("mfd_map", fd, offsetBytes, lengthBytes, writable ? 1 : 0),
    `mapping ${lengthBytes} bytes of descriptor ${fd} from offset ${offsetBytes}`,
  );
  return { address, lengthBytes };
}

export function unmap(mapping: Mapping): void {
  checked(call("mfd_unmap", mapping.address, mapping.lengthBytes), "unmapping");
}

/**
 * Creates anonymous shared memory.
 *
 * @param hugePageBytes  2 MiB or 1 GiB; left out for ordinary pages.
 * @returns Its descriptor, close-on-exec.
 */
export function createMemfd(name: string, lengthBytes: number, hugePageBytes = 0): number {
  return checked(
    call("mfd_memfd", name, lengthBytes, hugePageBytes),
    `creating ${lengthBytes} bytes of shared memory "${name}"`,
  );
}

/** Copies out of a mapping; for the control path. */
export function readMemory(mapping: Mapping, offsetBytes: number, out: Uint8Array): void {
  const { address, lengthBytes } = mapping;
  checked(
    call("mfd_read_memory", address, lengthBytes, offsetBytes, out, out.byteLength),
    `reading ${out.byteLength} bytes at offset ${offsetBytes} of a mapping`,
  );
}

/** Copies into a mapping; for the control path. */
export function writeMemory(mapping: Mapping, offsetBytes: number, bytes: Uint8Array): void {
  const { address, lengthBytes } = mapping;
  checked(
    call("mfd_write_memory", address, lengthBytes, offsetBytes, bytes, bytes.byteLength),
    `writing ${bytes.byteLength} bytes at offset ${offsetBytes} of a mapping`,
  );
}
