/*
 * zstd: one complete frame per packet out, any stream of frames in.
 *
 * A frame per packet leaves no state between packets, and lets libzstd fit its
 * tables to 512 KiB. What comes in may be one endless frame over all packets
 * (QEMU) or frames of any number of pages, with skippable frames between them,
 * so the decompressor streams and is never reset. Its window limit is the
 * library's default, 128 MiB, which is also QEMU's.
 */
#include "internal.h"

#ifdef MFD_HAVE_ZSTD
#include <stdlib.h>
#include <string.h>
#include <zstd.h>

/*
 * Shortest match at level 1. libzstd takes 7 bytes for inputs above 256 KiB and 6 below them; guest pages are
 * small files lying together: 6 saves 1 % of the wire bytes for 3 % of the compressor's time, and makes them
 * fewer than QEMU's, whose one long frame profits from the packets before. bench/README.md.
 */
#define LEVEL_1_MATCH 6

struct zstd_codec {
  struct mfd_codec codec;
  ZSTD_CCtx *compressor;
  ZSTD_DCtx *decompressor;
};

static void destroy(struct mfd_codec *self) {
  struct zstd_codec *const zstd = (struct zstd_codec *)self;
  ZSTD_freeCCtx(zstd->compressor);
  ZSTD_freeDCtx(zstd->decompressor);
  free(zstd);
}

static int64_t compress(struct mfd_codec *self, const uint8_t *in, size_t bytes, uint8_t *out, size_t room) {
  struct zstd_codec *const zstd = (struct zstd_codec *)self;
  const size_t result = ZSTD_compress2(zstd->compressor, out, room, in, bytes);
  return ZSTD_isError(result) ? MFD_E_CORRUPT : (int64_t)result;
}

static int64_t decompress(struct mfd_codec *self, const uint8_t *in, size_t bytes, uint8_t *out,
                          size_t bytes_due) {
  struct zstd_codec *const zstd = (struct zstd_codec *)self;
  ZSTD_inBuffer input = {in, bytes, 0};
  ZSTD_outBuffer output = {out, bytes_due + MFD_PAYLOAD_SLACK, 0};
  for (;;) {
    const size_t in_before = input.pos, out_before = output.pos;
    const size_t result = ZSTD_decompressStream(zstd->decompressor, &output, &input);
    if (ZSTD_isError(result))
      return MFD_E_CORRUPT;
    if (output.pos > bytes_due)
      return MFD_E_LONG;
    // Input used up is not the end: decoded bytes may wait inside. No progress on either side is.
    if (input.pos == in_before && output.pos == out_before)
      break;
  }
  if (input.pos < input.size)
    return MFD_E_LONG;
  return output.pos < bytes_due ? MFD_E_SHORT : 0;
}

struct mfd_codec *mfd_zstd_compressor(int level) {
  struct zstd_codec *const zstd = calloc(1, sizeof *zstd);
  if (zstd == NULL)
    return NULL;
  zstd->codec = (struct mfd_codec){.compress = compress, .destroy = destroy};
  zstd->compressor = ZSTD_createCCtx();
  // Level 0 reads "the default", 3, in libzstd as in QEMU.
  if (zstd->compressor == NULL ||
      ZSTD_isError(ZSTD_CCtx_setParameter(zstd->compressor, ZSTD_c_compressionLevel, level)) ||
      (level == 1 &&
       ZSTD_isError(ZSTD_CCtx_setParameter(zstd->compressor, ZSTD_c_minMatch, LEVEL_1_MATCH))) ||
      ZSTD_isError(ZSTD_CCtx_setParameter(zstd->compressor, ZSTD_c_checksumFlag, 0))) {
    destroy(&zstd->codec);
    return NULL;
  }
  return &zstd->codec;
}

static void put_le(uint8_t *at, uint32_t value, int bytes) {
  for (int i = 0; i < bytes; i++)
    at[i] = (uint8_t)(value >> 8 * i);
}

/*
 * One frame of raw blocks: RFC 8878, 3.1.1. Magic; a descriptor that says "one segment, content size in four
 * bytes"; that size; then blocks of at most 128 KiB behind a header of three bytes: bit 0 marks the last,
 * type 0.
 */
static int64_t store(struct mfd_codec *self, const uint8_t *in, size_t bytes, uint8_t *out, size_t room) {
  (void)self;
  const size_t block_max = 128 * 1024;
  const size_t blocks = (bytes + block_max - 1) / block_max;
  if (bytes == 0 || 9 + 3 * blocks + bytes > room)
    return MFD_E_LONG;
  uint8_t *to = out;
  put_le(to, 0xfd2fb528, 4);
  to[4] = 0xa0;
  put_le(to + 5, (uint32_t)bytes, 4);
  to += 9;
  while (bytes > 0) {
    const size_t size = bytes < block_max ? bytes : block_max;
    put_le(to, (uint32_t)size << 3 | (size == bytes), 3);
    memcpy(to + 3, in, size);
    to += 3 + size;
    in += size;
    bytes -= size;
  }
  return to - out;
}

struct mfd_codec *mfd_zstd_storer(void) {
  struct zstd_codec *const zstd = calloc(1, sizeof *zstd);
  if (zstd != NULL)
    zstd->codec = (struct mfd_codec){.compress = store, .destroy = destroy};
  return zstd == NULL ? NULL : &zstd->codec;
}

struct mfd_codec *mfd_zstd_decompressor(void) {
  struct zstd_codec *const zstd = calloc(1, sizeof *zstd);
  if (zstd == NULL)
    return NULL;
  zstd->codec = (struct mfd_codec){.decompress = decompress, .destroy = destroy};
  zstd->decompressor = ZSTD_createDCtx();
  if (zstd->decompressor == NULL) {
    destroy(&zstd->codec);
    return NULL;
  }
  return &zstd->codec;
}
#endif
