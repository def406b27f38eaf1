/*
 * lz4: one block per packet, in liblz4's block format, without a frame around it.
 *
 * The packet's header says how long the block is and to how much it decodes, which
 * is all that a frame's header would add; so a block is decoded to exactly its
 * pages or refused. Nothing is kept from packet to packet. Only our own engines
 * speak this, after a hello (docs/compression.md).
 */
#include "internal.h"

#ifdef MFD_HAVE_LZ4
#include <lz4.h>
#include <stdlib.h>

/* 1 is liblz4's own default; larger is faster and packs worse. */
#define ACCELERATION 1

struct lz4_codec {
  struct mfd_codec codec;
  union LZ4_stream_u *state; // NULL in a decompressor, which needs none
};

static void destroy(struct mfd_codec *self) {
  struct lz4_codec *const lz4 = (struct lz4_codec *)self;
  free(lz4->state);
  free(lz4);
}

static int64_t compress(struct mfd_codec *self, const uint8_t *in, size_t bytes, uint8_t *out, size_t room) {
  struct lz4_codec *const lz4 = (struct lz4_codec *)self;
  const int result = LZ4_compress_fast_extState(lz4->state, (const char *)in, (char *)out, (int)bytes,
                                                (int)room, ACCELERATION);
  return result > 0 ? result : MFD_E_LONG;
}

static int64_t decompress(struct mfd_codec *self, const uint8_t *in, size_t bytes, uint8_t *out,
                          size_t bytes_due) {
  (void)self;
  // The slack tells a block that goes on behind its pages from one that liblz4 cannot read.
  const int result =
      LZ4_decompress_safe((const char *)in, (char *)out, (int)bytes, (int)(bytes_due + MFD_PAYLOAD_SLACK));
  if (result < 0)
    return MFD_E_CORRUPT;
  if ((size_t)result != bytes_due)
    return (size_t)result > bytes_due ? MFD_E_LONG : MFD_E_SHORT;
  return 0;
}

struct mfd_codec *mfd_lz4_compressor(void) {
  struct lz4_codec *const lz4 = calloc(1, sizeof *lz4);
  if (lz4 == NULL)
    return NULL;
  lz4->codec = (struct mfd_codec){.compress = compress, .destroy = destroy};
  lz4->state = malloc(sizeof *lz4->state);
  if (lz4->state == NULL) {
    destroy(&lz4->codec);
    return NULL;
  }
  return &lz4->codec;
}

struct mfd_codec *mfd_lz4_decompressor(void) {
  struct lz4_codec *const lz4 = calloc(1, sizeof *lz4);
  if (lz4 == NULL)
    return NULL;
  lz4->codec = (struct mfd_codec){.decompress = decompress, .destroy = destroy};
  return &lz4->codec;
}
#endif
