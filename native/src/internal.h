/*
 * What the library's files share: checks, page runs, whole reads and writes, and the codec interface.
 *
 * A length arrives as a double (JavaScript's number) and becomes a size_t only
 * through `mfd_size`; a page index becomes an address only after `mfd_check_pages`.
 */
#ifndef MULTIFD_INTERNAL_H
#define MULTIFD_INTERNAL_H

#include "multifd.h"

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>
#include <sys/uio.h>

/* Largest user address plus one on the machines we know; also keeps every sum below 2^64. */
#define MFD_ADDRESS_MAX (UINT64_C(1) << 56)
/* recv and pwrite meet in a buffer of this size, so that the bytes never leave the L2 cache between the two.
 */
#define MFD_STAGE_BYTES (256u * 1024u)
/* What one sendmsg or recvmsg takes (UIO_MAXIOV in the kernel). */
#define MFD_IOVECS_MAX 1024

/* ---- numbers from JavaScript (check.c) ---- */

/* True, and *out set, for a whole number from 0 to 2^53 - 1. */
bool mfd_size(double value, uint64_t *out);
/* Checks that [offset, offset + bytes) lies inside a mapping; sets *at to its address. 0 or MFD_E_*. */
int64_t mfd_mapped_range(double address, double length, double offset, double bytes, uint8_t **at);
/* Checks page size, `count` page indexes against `length`, and that they fit one payload of `bytes_max`. 0 or
 * MFD_E_*. */
int64_t mfd_check_pages(const struct mfd_packet *packet, uint64_t count, uint64_t bytes_max);

/* ---- page runs (pages.c) ---- */

/* How many of pages[at .. count) follow each other in ascending order: one iovec, one pwrite. */
uint32_t mfd_run_pages(const uint32_t *pages, uint32_t at, uint32_t count);
/* Where a RAM block's bytes go; the fields are those of struct mfd_packet. */
struct mfd_place {
  uint64_t address;
  uint64_t file_offset;
  int32_t file;
  int32_t fresh;
};
/* Copies `count` bytes to `offset` of the block, which the caller has checked. 0 or -errno. */
int64_t mfd_place_bytes(const struct mfd_place *place, uint64_t offset, const uint8_t *bytes, uint64_t count);
/* Copies `bytes` to pages[first .. first + count) of the file or mapping. 0 or -errno. */
int64_t mfd_write_pages(const struct mfd_packet *packet, uint32_t first, uint32_t count,
                        const uint8_t *bytes);

/* ---- whole reads and writes (stream.c) ---- */

/* Sends everything the iovecs name, which are used up on the way. Bytes sent, or a negative result. */
int64_t mfd_send_all(int fd, struct iovec *iov, size_t count);
/* Fills the iovecs, which are used up; stops early only at the end of the stream. Bytes received, or a
 * negative result. */
int64_t mfd_receive_all(int fd, struct iovec *iov, size_t count);
/* Fills one buffer; MFD_E_CUT where the stream ends before. */
int64_t mfd_receive_exact(int fd, void *out, size_t bytes);
/* Reads all bytes at `offset` of a file; -ENODATA where it ends before. 0 or -errno. */
int64_t mfd_pread_all(int fd, uint8_t *out, size_t count, uint64_t offset);
/* Writes all bytes at `offset` of a file. 0 or -errno. */
int64_t mfd_pwrite_all(int fd, const uint8_t *bytes, size_t count, uint64_t offset);
/* -errno of a socket call, where a time-out (SO_RCVTIMEO, SO_SNDTIMEO) reads MFD_E_TIMEOUT. */
int64_t mfd_socket_error(void);

/* ---- zero scan (zero-scan.c) ---- */

typedef bool mfd_zero_scan(const uint8_t *page, size_t bytes);
/* The fastest scan that this CPU has and `mfd_scan_limit` allows; bytes is a power of two, 512 or more. */
mfd_zero_scan *mfd_zero_scan_get(void);
bool mfd_cpu_has_avx2(void);
bool mfd_cpu_has_avx512(void);

/* ---- noise (noise.c) ---- */

/* Whether a page looks like one that no codec makes smaller; bytes is a power of two, 512 or more. */
bool mfd_is_noise(const uint8_t *page, size_t bytes);

/* ---- codecs (codec.c) ---- */

/* What `bytes` take as they are, at most. */
#define MFD_STORED_BYTES(bytes) ((bytes) + (bytes) / 1024 + 64)

/* One compressor or decompressor: `compress`, or `decompress`. */
struct mfd_codec {
  /* Compresses one packet's pages; returns the payload's bytes, at most `room`. */
  int64_t (*compress)(struct mfd_codec *self, const uint8_t *in, size_t bytes, uint8_t *out, size_t room);
  /*
   * Writes pages as they are, to go on with what `compress` wrote: at most MFD_STORED_BYTES of them. NULL
   * where compressing noise costs next to nothing, or shall be tried all the same.
   */
  int64_t (*store)(struct mfd_codec *self, const uint8_t *in, size_t bytes, uint8_t *out, size_t room);
  /*
   * Decodes one payload to exactly `bytes_due`; 0 or MFD_E_*. `out` has MFD_PAYLOAD_SLACK bytes more, which
   * is how too much output is told from enough.
   */
  int64_t (*decompress)(struct mfd_codec *self, const uint8_t *in, size_t bytes, uint8_t *out,
                        size_t bytes_due);
  void (*destroy)(struct mfd_codec *self);
};

/* The codec behind a handle, NULL for none. */
struct mfd_codec *mfd_codec_find(uint32_t handle);
/* NULL when memory is short; levels are checked before. */
struct mfd_codec *mfd_zlib_compressor(int level);
struct mfd_codec *mfd_zlib_decompressor(void);
struct mfd_codec *mfd_zstd_compressor(int level);
struct mfd_codec *mfd_zstd_decompressor(void);
struct mfd_codec *mfd_zstd_storer(void);
struct mfd_codec *mfd_lz4_compressor(void);
struct mfd_codec *mfd_lz4_decompressor(void);

#endif
