/*
 * The kernels of multifd: what must not be done page by page in TypeScript.
 *
 * The library knows mappings, descriptors, page indexes and codecs; it knows
 * neither the wire's headers nor JavaScript. Calls come from any thread; a
 * `struct mfd_packet` belongs to one thread at a time. Nothing here keeps a
 * pointer after it returns, but for the contexts behind codec handles.
 *
 * Results: zero or more on success, -errno when the system refused, one of
 * MFD_E_* (below -4095) when the input was refused. No call aborts, prints,
 * or touches memory outside the ranges it was handed; every page index meets
 * the mapping's length before it becomes an address.
 *
 * Addresses and lengths of mappings are user addresses, below 2^47.
 */
#ifndef MULTIFD_H
#define MULTIFD_H

#include <stdint.h>

#if defined(__GNUC__)
#define MFD_API __attribute__((visibility("default")))
#else
#define MFD_API
#endif

#define MFD_E_OUTSIDE (-5001)  /* an address or page lies outside the mapping or file */
#define MFD_E_ARGUMENT (-5002) /* a field or handle makes no sense */
#define MFD_E_CUT (-5003)      /* the stream ended inside what was announced */
#define MFD_E_CORRUPT (-5004)  /* the codec cannot read the payload */
#define MFD_E_LONG (-5005)     /* the payload decodes to more than its pages, or has bytes left over */
#define MFD_E_SHORT (-5006)    /* the payload decodes to less than its pages */
#define MFD_E_ENDED (-5007)    /* the codec stream was finished where it must stay open */
#define MFD_E_TIMEOUT (-5008)  /* nothing happened in the time given */
#define MFD_E_NO_CODEC (-5009) /* this build lacks the codec */

#define MFD_PAGES_MAX 1024      /* page indexes in one packet: 512 KiB of 512-byte pages */
#define MFD_HEADER_MAX 8576     /* 320 + 8 * MFD_PAGES_MAX, rounded up to 64 */
#define MFD_PACKET_BYTES 524288 /* guest RAM in one packet */
#define MFD_PAYLOAD_MAX 1048576 /* what a QEMU destination takes at most */
#define MFD_PAYLOAD_SLACK 4096

/*
 * One packet's working set: the only argument of the per-packet calls.
 * TypeScript sees the same bytes through typed arrays
 * (packages/native/src/packet-block.ts); both sides assert the offsets.
 */
struct mfd_packet {
  uint64_t address;            /*   0: mapping to place pages into; with a `file`, the one behind `fresh` */
  uint64_t length;             /*   8: bytes of the RAM block */
  int32_t socket;              /*  16 */
  int32_t file;                /*  20: descriptor to read pages from or place them into, -1 for the mapping */
  uint32_t page_bytes;         /*  24: power of two, 512 ... 65536 */
  uint32_t normal_pages;       /*  28: the first entries of `pages` */
  uint32_t zero_pages;         /*  32: the entries behind them */
  uint32_t codec;              /*  36: handle; 0 for none */
  uint32_t header_bytes;       /*  40: of `header` to send, or to receive in full */
  uint32_t payload_bytes;      /*  44: of `payload`; set by prepare, announced to receive */
  uint32_t short_header_bytes; /*  48: what receive_header reads first; 0: all at once */
  uint32_t short_flag_at;      /*  52: offset of a big-endian word in those bytes */
  uint32_t short_flag_mask;    /*  56: any of these bits: the header ends there */
  int32_t fresh;         /*  60: from mfd_fresh_register: pages that `file` lacks are made through it; -1 */
  uint64_t file_offset;  /*  64: where the RAM block begins in `file` */
  uint32_t raw_fallback; /*  72: 1: what a codec makes hardly smaller stays as it is, and `codec` becomes 0 */
  uint32_t unused;       /*  76 */
  uint64_t reserved[6];  /*  80 */
  uint32_t pages[MFD_PAGES_MAX];                               /*   128 */
  uint8_t header[MFD_HEADER_MAX];                              /*  4224 */
  uint8_t payload[MFD_PAYLOAD_MAX + MFD_PAYLOAD_SLACK];        /* 12800 */
  uint8_t pages_scratch[MFD_PACKET_BYTES + MFD_PAYLOAD_SLACK]; /* decoded pages, or those read to be sent */
};

/* ---- ranges: RAM without packets ---- */

#define MFD_RANGES_MAX 1024

/* One run of a RAM block's bytes. Numbers as JavaScript has them: whole, from 0 to 2^53 - 1. */
struct mfd_range {
  double address;     /*  0: of the block's mapping, as in struct mfd_packet; 0 for none */
  double length;      /*  8: bytes of the RAM block */
  double file_offset; /* 16: where the RAM block begins in `file` */
  double offset;      /* 24: of the run, in the block */
  double bytes;       /* 32: of the run; may be 0 */
  int32_t file;       /* 40: -1 for the mapping, when placing */
  int32_t fresh;      /* 44: as in struct mfd_packet */
};

/* The only argument of the two calls; belongs to one thread at a time (packages/native/src/range-block.ts).
 */
struct mfd_ranges {
  int32_t socket; /*  0 */
  uint32_t count; /*  4 */
  uint64_t reserved[7];
  struct mfd_range ranges[MFD_RANGES_MAX]; /*    64 */
  uint8_t stage[262144];                   /* 49216 */
};

/* Reads every range from its file and sends them, back to back. Returns the bytes sent; -ENODATA where a file
 * ends before. */
MFD_API int64_t mfd_send_ranges(struct mfd_ranges *work);
/* Receives every range and places it as mfd_receive_pages does without a codec. Returns the bytes received.
 */
MFD_API int64_t mfd_receive_ranges(struct mfd_ranges *work);

/* ---- sending: two calls a packet ---- */

/*
 * Reads `pages[0 .. normal_pages + zero_pages)` from `file` or the mapping, splits them into
 * normal pages, then zero pages (order kept in both), sets both counts, and, when
 * a codec is set, compresses the normal pages into `payload`. A fast zlib level has pages that nothing makes
 * smaller last among the normal ones. With no codec payload_bytes becomes normal_pages * page_bytes, and they
 * stay in `pages_scratch`; so they do with `raw_fallback` where the codec saves less than a sixteenth.
 * detect_zero 0 leaves every page normal, and in its place. Returns the payload's bytes; -ENODATA where the
 * file ends before a page.
 */
MFD_API int64_t mfd_prepare(struct mfd_packet *packet, int32_t detect_zero);
/* Sends `header`, then what was prepared, with the codec that it was prepared for. Returns the bytes written.
 */
MFD_API int64_t mfd_send(struct mfd_packet *packet);

/* ---- receiving: two calls a packet ---- */

/*
 * Receives the header: short_header_bytes first, the rest unless the flag says
 * that it ends there. Returns the bytes received; 0 for a stream that ended
 * before the first byte; MFD_E_CUT for one that ended inside.
 */
MFD_API int64_t mfd_receive_header(struct mfd_packet *packet);
/*
 * Receives payload_bytes, decodes them (codec), and places the normal pages,
 * through `file` (by way of `fresh` where the file lacks them, else by pwrite)
 * or into the mapping. Without a codec the pages pass through an L2-sized buffer
 * (file) or go straight into the mapping. Returns the bytes received.
 */
MFD_API int64_t mfd_receive_pages(struct mfd_packet *packet);
/* Overwrites pages[0 .. zero_pages) of the block (file or mapping) with zeros. Here the list starts at 0. */
MFD_API int64_t mfd_clear_pages(struct mfd_packet *packet);
/* Overwrites pages[0 .. normal_pages) with `payload`, page after page; payload_bytes must be their size. With
 * a codec the payload is decoded first, to exactly its pages. */
MFD_API int64_t mfd_place_pages(struct mfd_packet *packet);
/* Overwrites pages[0 .. normal_pages) with what mfd_prepare left in `pages_scratch`, page after page. */
MFD_API int64_t mfd_place_prepared(struct mfd_packet *packet);

/* ---- codecs: contexts behind small handles, at most 1024 ---- */

#define MFD_CODEC_ZLIB 1
#define MFD_CODEC_ZSTD 2
#define MFD_CODEC_LZ4 3
/* A zstd level of our own: frames of raw blocks, for who takes nothing but zstd. Levels above -100 and below
 * 0 are libzstd's fast ones. */
#define MFD_ZSTD_STORE (-100)
/* Compressors: each packet stands alone (raw deflate ended by a sync flush, `78 01` before a context's first;
 * one zstd frame; one lz4 block, level 1). */
MFD_API int64_t mfd_compressor_create(int32_t method, int32_t level);
/* Decompressors: one stream over all packets of a channel, as QEMU sends it; lz4's blocks stand alone. */
MFD_API int64_t mfd_decompressor_create(int32_t method);
MFD_API int64_t mfd_codec_free(int32_t handle);

/* ---- mappings and files ---- */

/* Maps `length` bytes of a descriptor, shared; returns the address. writable 0 or 1. */
MFD_API int64_t mfd_map(int32_t fd, double offset, double length, int32_t writable);
MFD_API int64_t mfd_unmap(double address, double length);
/* memfd, close-on-exec; huge_page_bytes 0, 2 MiB or 1 GiB. Returns the descriptor. */
MFD_API int64_t mfd_memfd(const char *name, double length, double huge_page_bytes);
/* Copies between a mapping and a buffer; for the control path and for tests. */
MFD_API int64_t mfd_read_memory(double address, double length, double offset, uint8_t *out, double bytes);
MFD_API int64_t mfd_write_memory(double address, double length, double offset, const uint8_t *bytes_in,
                                 double bytes);
/* Reserves storage so that a mapping cannot fault for want of space (fallocate). */
MFD_API int64_t mfd_reserve(int32_t fd, double length);
/*
 * Readies a writable mapping of a whole tmpfs file or memfd, [address, address +
 * length), for making the pages that the file lacks; returns the descriptor that a
 * packet names as `fresh`. From then on nobody may touch that mapping: a
 * missing page would wait for ever. -errno where the file or the system does not
 * do that; pages are then placed by pwrite.
 */
MFD_API int64_t mfd_fresh_register(double address, double length);
/* Frees the storage of a range and makes it read as zeros (FALLOC_FL_PUNCH_HOLE). */
MFD_API int64_t mfd_punch(int32_t fd, double offset, double length);
/* Offset of the first data at or after `offset` (SEEK_DATA), -ENXIO when there is none. */
MFD_API int64_t mfd_seek_data(int32_t fd, double offset);
/* Takes (1) or leaves (0) the advisory lock of a file (flock), exclusive; -EWOULDBLOCK while another open
 * file has it. */
MFD_API int64_t mfd_lock_file(int32_t fd, int32_t take);
/* Offset of the first hole at or after `offset` (SEEK_HOLE); the file's end counts as one. */
MFD_API int64_t mfd_seek_hole(int32_t fd, double offset);
/* Block size of the file's own pages: huge page size on hugetlbfs, else 0. */
MFD_API int64_t mfd_huge_page_bytes(int32_t fd);

/* ---- sockets: raw, blocking, close-on-exec; cancelled by shutdown(2) ---- */

/* family 4, 6 (numeric host) or 1 (unix: host is the path, port ignored; a leading '@' names the abstract
 * space). */
MFD_API int64_t mfd_connect(int32_t family, const char *host, int32_t port, int32_t timeout_ms);
MFD_API int64_t mfd_listen(int32_t family, const char *host, int32_t port, int32_t backlog);
/* 1 where a socket is bound to a unix path, 0 where at most its name is left. Its owner notices nothing. */
MFD_API int64_t mfd_path_in_use(const char *path);
/* Accepts without blocking; -EAGAIN when nobody waits. */
MFD_API int64_t mfd_accept(int32_t fd);
MFD_API int64_t mfd_local_port(int32_t fd);
MFD_API int64_t mfd_shutdown(int32_t fd);
/* Ends our direction only: the peer reads what is in flight, then end of file. */
MFD_API int64_t mfd_shutdown_write(int32_t fd);
MFD_API int64_t mfd_close(int32_t fd);
/* A connected pair of unix sockets: out[0], out[1]. */
MFD_API int64_t mfd_socketpair(int32_t *out);
/* Waits until one of `count` descriptors is readable or timeout_ms passed (-1: for ever); sets ready[i].
 * Returns how many are. */
MFD_API int64_t mfd_poll(const int32_t *fds, int32_t count, int32_t timeout_ms, uint8_t *ready);
/* Looks at the next bytes without taking them, never blocking; returns how many, 0 at the end, -EAGAIN for
 * none yet. */
MFD_API int64_t mfd_peek(int32_t fd, uint8_t *out, double bytes);
MFD_API int64_t mfd_send_bytes(int32_t fd, const uint8_t *bytes_in, double bytes);
/* Returns the bytes received; fewer than asked only at the end of the stream. */
MFD_API int64_t mfd_receive_bytes(int32_t fd, uint8_t *out, double bytes);
/* Bounds every blocking send and receive on this socket (SO_RCVTIMEO, SO_SNDTIMEO); 0 for no bound. They then
 * end with MFD_E_TIMEOUT. */
MFD_API int64_t mfd_socket_timeout(int32_t fd, int32_t timeout_ms);
/* One message with descriptors (SCM_RIGHTS); at most 64 descriptors. */
MFD_API int64_t mfd_send_descriptors(int32_t fd, const uint8_t *bytes_in, double bytes, const int32_t *fds,
                                     int32_t count);
/* Returns the message's bytes; *count says how many descriptors came (closed again if more than asked). */
MFD_API int64_t mfd_receive_descriptors(int32_t fd, uint8_t *out, double bytes, int32_t *fds, int32_t fds_max,
                                        int32_t *count);

/* ---- dirty pages ---- */

/* Moves bits: out[i] |= exchange(bitmap[i], 0), 32-bit words, atomically. Returns the number of bits set in
 * what was taken. */
MFD_API int64_t mfd_exchange_bitmap(uint8_t *bitmap, double bitmap_bytes, uint8_t *out, double out_bytes);
/* The same from a mapping (a log shared with another process). */
MFD_API int64_t mfd_exchange_mapped_bitmap(double address, double length, uint8_t *out, double out_bytes);
/* Sets bits [first, first + count) of a log that others take from, each by an atomic OR. */
MFD_API int64_t mfd_mark_pages(double address, double length, double first, double count);
/* Registers a range of the calling process for asynchronous write protection; returns the userfaultfd that
 * keeps it registered. */
MFD_API int64_t mfd_track_register(double address, double length);
/*
 * The same for another process, through a descriptor that was opened there (attach/): switch its features on
 * once
 * (-EINVAL: they are on already, or the kernel lacks them), register ranges of that process, and end their
 * tracking.
 */
MFD_API int64_t mfd_track_enable(int32_t tracker);
MFD_API int64_t mfd_track_register_in(int32_t tracker, double address, double length);
MFD_API int64_t mfd_track_unregister(int32_t tracker, double address, double length);
/* 0 when this kernel can do both; -errno and *step naming what failed: 1 userfaultfd, 2 its features, 3
 * PAGEMAP_SCAN. */
MFD_API int64_t mfd_track_probe(int32_t *step);
/*
 * PAGEMAP_SCAN over [start, start + length) of the process behind a
 * /proc/PID/pagemap descriptor: ORs written pages into `bitmap` (bit i is page
 * i of page_bytes) and write-protects them again in the same step. Returns the number of pages found.
 */
MFD_API int64_t mfd_track_harvest(int32_t pagemap_fd, double start, double length, int32_t page_bytes,
                                  uint8_t *bitmap, double bitmap_bytes);

/* ---- rings and events shared with another process ---- */

/* Loads a 16-bit index of a ring in a mapping (acquire); `offset` is even. */
MFD_API int64_t mfd_load_index(double address, double length, double offset);
/* Stores one, fully ordered: everything written before is seen before it. */
MFD_API int64_t mfd_store_index(double address, double length, double offset, int32_t value);
/* An event descriptor, close-on-exec, that never blocks. */
MFD_API int64_t mfd_eventfd(int32_t initial);
MFD_API int64_t mfd_eventfd_signal(int32_t fd);
/* Returns how often it was signalled since it was last taken, 0 for not at all; INT32_MAX stands for more. */
MFD_API int64_t mfd_eventfd_take(int32_t fd);
/* A pipe, close-on-exec: out[0] to read from, out[1] to write to. */
MFD_API int64_t mfd_pipe(int32_t *out);

/* ---- what this build and machine offer ---- */

/* Bit 0 zlib, 1 ISA-L, 2 zstd, 3 lz4; bit 8 AVX2 in use, 9 AVX-512 in use. */
MFD_API int64_t mfd_features(void);
/* Limits the scan to scalar code (0), AVX2 (1) or whatever the CPU has (2); for tests and benches. */
MFD_API int64_t mfd_scan_limit(int32_t level);
/* CPU seconds of this process's user and system time are Node's business; a thread's own, in microseconds, is
 * not. */
MFD_API int64_t mfd_thread_cpu_us(void);

#endif
