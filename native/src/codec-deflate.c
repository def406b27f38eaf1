/*
 * zlib, sending: every packet is raw DEFLATE of its own, ended by a sync flush.
 *
 * The receiver sees one zlib stream per channel: `78 01` once, then blocks for
 * ever. A packet that looks back at nothing before it fits anywhere in that
 * stream, so no history is kept and any worker may compress any packet. BFINAL
 * is never set, and the flush leaves the stream at a byte boundary, as QEMU's
 * receiver asks.
 *
 *   level 0      stored blocks, written here
 *   level 1..3   ISA-L, where built with it: level 1 costs a tenth of zlib's level 1
 *   level 4..9   zlib (and 1..3 without ISA-L)
 *
 * Noise is stored at levels 1 to 3: compressing it costs either end as much as other pages do.
 */
#include "internal.h"

#include <stdlib.h>
#include <string.h>
#include <zlib.h>
#ifdef MFD_HAVE_ISAL
#include <isa-l.h>
#endif

#define FAST_LEVEL_MAX 3

struct deflate_codec;
typedef int64_t deflate_fn(struct deflate_codec *self, const uint8_t *in, size_t bytes, uint8_t *out,
                           size_t room);

struct deflate_codec {
  struct mfd_codec codec;
  int level;
  deflate_fn *deflate;
  bool header_sent;
  z_stream zlib;
#ifdef MFD_HAVE_ISAL
  struct isal_zstream isal;
  uint8_t level_buffer[];
#endif
};

static int64_t store(struct deflate_codec *self, const uint8_t *in, size_t bytes, uint8_t *out, size_t room) {
  (void)self;
  const size_t block_max = 65535;
  const size_t blocks = (bytes + block_max - 1) / block_max;
  if (bytes + 5 * (blocks + 1) > room)
    return MFD_E_LONG;
  uint8_t *to = out;
  for (bool last = false; !last; in += block_max) {
    last = bytes == 0; // the closing empty block is the sync flush itself
    const size_t size = bytes < block_max ? bytes : block_max;
    const uint8_t head[5] = {0, size & 0xff, size >> 8, ~size & 0xff, (~size >> 8) & 0xff};
    memcpy(to, head, sizeof head);
    if (last)
      return to + sizeof head - out;
    memcpy(to + sizeof head, in, size);
    to += sizeof head + size;
    bytes -= size;
  }
  return 0;
}

static int64_t deflate_zlib(struct deflate_codec *self, const uint8_t *in, size_t bytes, uint8_t *out,
                            size_t room) {
  z_stream *const z = &self->zlib;
  deflateReset(z);
  z->next_in = (Bytef *)(uintptr_t)in;
  z->avail_in = (uInt)bytes;
  z->next_out = out;
  z->avail_out = (uInt)room;
  if (deflate(z, Z_SYNC_FLUSH) != Z_OK || z->avail_in > 0 || z->avail_out == 0)
    return MFD_E_LONG;
  return (int64_t)(room - z->avail_out);
}

#ifdef MFD_HAVE_ISAL
/*
 * Symbols of one Huffman block. With a quarter of the room, as many as zlib takes, guest-like pages came out
 * 0.6 % smaller and took 7 % more CPU: bench/src/codec-cost.ts.
 */
static size_t level_buffer_bytes(int level) {
  return level == 1 ? ISAL_DEF_LVL1_DEFAULT : level == 2 ? ISAL_DEF_LVL2_DEFAULT : ISAL_DEF_LVL3_DEFAULT;
}

static int64_t deflate_isal(struct deflate_codec *self, const uint8_t *in, size_t bytes, uint8_t *out,
                            size_t room) {
  struct isal_zstream *const z = &self->isal;
  isal_deflate_reset(z);
  z->level = (uint32_t)self->level;
  z->level_buf = self->level_buffer;
  z->level_buf_size = (uint32_t)level_buffer_bytes(self->level);
  z->flush = SYNC_FLUSH;
  z->end_of_stream = 0;
  z->gzip_flag = IGZIP_DEFLATE;
  z->next_in = (uint8_t *)(uintptr_t)in;
  z->avail_in = (uint32_t)bytes;
  z->next_out = out;
  z->avail_out = (uint32_t)room;
  if (isal_deflate(z) != COMP_OK || z->avail_in > 0 || z->avail_out == 0)
    return MFD_E_LONG;
  return (int64_t)(room - z->avail_out);
}
#endif

static int64_t append(struct deflate_codec *self, deflate_fn *deflate, const uint8_t *in, size_t bytes,
                      uint8_t *out, size_t room) {
  const size_t head = self->header_sent ? 0 : 2;
  if (head > 0)
    memcpy(out, "\x78\x01", 2);
  const int64_t result = deflate(self, in, bytes, out + head, room - head);
  if (result < 0)
    return result;
  self->header_sent = true;
  return result + (int64_t)head;
}

static int64_t compress_packet(struct mfd_codec *codec, const uint8_t *in, size_t bytes, uint8_t *out,
                               size_t room) {
  struct deflate_codec *const self = (struct deflate_codec *)codec;
  return append(self, self->deflate, in, bytes, out, room);
}

static int64_t store_packet(struct mfd_codec *codec, const uint8_t *in, size_t bytes, uint8_t *out,
                            size_t room) {
  return append((struct deflate_codec *)codec, store, in, bytes, out, room);
}

static void destroy(struct mfd_codec *codec) {
  struct deflate_codec *const self = (struct deflate_codec *)codec;
  deflateEnd(&self->zlib); // refuses, harmlessly, a stream that was never opened
  free(self);
}

struct mfd_codec *mfd_zlib_compressor(int level) {
  size_t extra = 0;
  deflate_fn *deflate = level == 0 ? store : deflate_zlib;
#ifdef MFD_HAVE_ISAL
  if (level >= 1 && level <= FAST_LEVEL_MAX) {
    extra = level_buffer_bytes(level);
    deflate = deflate_isal;
  }
#endif
  struct deflate_codec *const self = calloc(1, sizeof *self + extra);
  if (self == NULL)
    return NULL;
  self->codec = (struct mfd_codec){.compress = compress_packet, .destroy = destroy};
  if (level >= 1 && level <= FAST_LEVEL_MAX)
    self->codec.store = store_packet;
  self->level = level;
  self->deflate = deflate;
#ifdef MFD_HAVE_ISAL
  isal_deflate_init(&self->isal);
#endif
  if (deflate == deflate_zlib &&
      deflateInit2(&self->zlib, level, Z_DEFLATED, -15, 8, Z_DEFAULT_STRATEGY) != Z_OK) {
    free(self);
    return NULL;
  }
  return &self->codec;
}
