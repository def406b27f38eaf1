/**
 * Kernel functions: what native/include/multifd.h declares, as a table.
 *
 * One row per function, one word per parameter. The results are all 64-bit
 * integers, which arrive as numbers.
 *
 *   int32    a C int32_t
 *   size     a C double that holds a whole number: lengths, offsets, addresses below 2^53
 *   text     a C string
 *   buffer   the address of a Uint8Array, not copied
 */
export const kernelFunctions = {
  mfd_prepare: ["buffer", "int32"],
  mfd_send: ["buffer"],
  mfd_receive_header: ["buffer"],
  mfd_receive_pages: ["buffer"],
  mfd_clear_pages: ["buffer"],
  mfd_place_pages: ["buffer"],
  mfd_place_prepared: ["buffer"],
  mfd_send_ranges: ["buffer"],
  mfd_receive_ranges: ["buffer"],

  mfd_compressor_create: ["int32", "int32"],
  mfd_decompressor_create: ["int32"],
  mfd_codec_free: ["int32"],

  mfd_map: ["int32", "size", "size", "int32"],
  mfd_unmap: ["size", "size"],
  mfd_memfd: ["text", "size", "size"],
  mfd_read_memory: ["size", "size", "size", "buffer", "size"],
  mfd_write_memory: ["size", "size", "size", "buffer", "size"],
  mfd_reserve: ["int32", "size"],
  mfd_fresh_register: ["size", "size"],
  mfd_punch: ["int32", "size", "size"],
  mfd_seek_data: ["int32", "size"],
  mfd_lock_file: ["int32", "int32"],
  mfd_seek_hole: ["int32", "size"],
  mfd_huge_page_bytes: ["int32"],

  mfd_connect: ["int32", "text", "int32", "int32"],
  mfd_listen: ["int32", "text", "int32", "int32"],
  mfd_path_in_use: ["text"],
  mfd_accept: ["int32"],
  mfd_local_port: ["int32"],
  mfd_shutdown: ["int32"],
  mfd_shutdown_write: ["int32"],
  mfd_close: ["int32"],
  mfd_socketpair: ["buffer"],
  mfd_poll: ["buffer", "int32", "int32", "buffer"],
  mfd_peek: ["int32", "buffer", "size"],
  mfd_send_bytes: ["int32", "buffer", "size"],
  mfd_receive_bytes: ["int32", "buffer", "size"],
  mfd_socket_timeout: ["int32", "int32"],
  mfd_send_descriptors: ["int32", "buffer", "size", "buffer", "int32"],
  mfd_receive_descriptors: ["int32", "buffer", "size", "buffer", "int32", "buffer"],

  mfd_exchange_bitmap: ["buffer", "size", "buffer", "size"],
  mfd_exchange_mapped_bitmap: ["size", "size", "buffer", "size"],
  mfd_mark_pages: ["size", "size", "size", "size"],
  mfd_track_register: ["size", "size"],
  mfd_track_enable: ["int32"],
  mfd_track_register_in: ["int32", "size", "size"],
  mfd_track_unregister: ["int32", "size", "size"],
  mfd_track_probe: ["buffer"],
  mfd_track_harvest: ["int32", "size", "size", "int32", "buffer", "size"],

  mfd_load_index: ["size", "size", "size"],
  mfd_store_index: ["size", "size", "size", "int32"],
  mfd_eventfd: ["int32"],
  mfd_eventfd_signal: ["int32"],
  mfd_eventfd_take: ["int32"],
  mfd_pipe: ["buffer"],

  mfd_features: [],
  mfd_scan_limit: ["int32"],
  mfd_thread_cpu_us: [],
} as const satisfies Record<string, readonly ParameterKind[]>;

export type ParameterKind = "int32" | "size" | "text" | "buffer";
export type KernelFunction = keyof typeof kernelFunctions;

type ValueOf<Kind> = Kind extends "text" ? string : Kind extends "buffer" ? Uint8Array : number;

type ValuesFor<Kinds extends readonly ParameterKind[]> = { readonly [Index in keyof Kinds]: ValueOf<Kinds[Index]> };

/** What a function takes, one value per parameter. */
export type ValuesOf<Name extends KernelFunction> = ValuesFor<(typeof kernelFunctions)[Name]>;
