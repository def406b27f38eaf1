/*
 * zlib, receiving: one zlib stream per channel, over all its packets, without an end.
 *
 * Two bytes of zlib header open the first payload and are read here; the rest
 * is raw DEFLATE whose history reaches back across packets. A payload must
 * decode to exactly its pages. The room given to the decoder is a little larger
 * than that: it then takes in the flush marker behind the last page, and too
 * much output shows as such.
 */
#include "internal.h"

#include <stdlib.h>
#ifdef MFD_HAVE_ISAL
#include <isa-l.h>
#else
#include <zlib.h>
#endif

struct inflate_codec {
  struct mfd_codec codec;
  bool header_read;
  bool ended;
#ifdef MFD_HAVE_ISAL
  struct inflate_state state;
#else
  z_stream state;
#endif
};

/* RFC 1950: method 8, a window of at most 32 KiB, no preset dictionary, a check by 31. */
static bool valid_header(const uint8_t *in) {
  return (in[0] & 0x0f) == 8 && in[0] >> 4 <= 7 && (in[1] & 0x20) == 0 && (in[0] * 256 + in[1]) % 31 == 0;
}

#ifdef MFD_HAVE_ISAL
/* Sets *left to the room that stays; 0 or MFD_E_*. */
static int64_t run(struct inflate_codec *self, const uint8_t *in, size_t bytes, uint8_t *out, size_t *left) {
  struct inflate_state *const z = &self->state;
  z->next_in = (uint8_t *)(uintptr_t)in;
  z->avail_in = (uint32_t)bytes;
  z->next_out = out;
  z->avail_out = (uint32_t)*left;
  // It may return with both input and room left, when its own buffer filled first.
  for (;;) {
    const uint32_t in_before = z->avail_in, out_before = z->avail_out;
    if (isal_inflate(z) < 0)
      return MFD_E_CORRUPT;
    if (z->avail_in == in_before && z->avail_out == out_before)
      break;
  }
  self->ended = z->block_state == ISAL_BLOCK_INPUT_DONE || z->block_state == ISAL_BLOCK_FINISH;
  *left = z->avail_out;
  return z->avail_in > 0 && !self->ended && z->avail_out > 0 ? MFD_E_LONG : 0;
}

static bool open_state(struct inflate_codec *self) {
  isal_inflate_init(&self->state);
  return true;
}

static void close_state(struct inflate_codec *self) {
  (void)self;
}
#else
/* Sets *left to the room that stays; 0 or MFD_E_*. */
static int64_t run(struct inflate_codec *self, const uint8_t *in, size_t bytes, uint8_t *out, size_t *left) {
  z_stream *const z = &self->state;
  z->next_in = (Bytef *)(uintptr_t)in;
  z->avail_in = (uInt)bytes;
  z->next_out = out;
  z->avail_out = (uInt)*left;
  const int result = inflate(z, Z_SYNC_FLUSH);
  self->ended = result == Z_STREAM_END;
  *left = z->avail_out;
  if (result != Z_OK && result != Z_STREAM_END && result != Z_BUF_ERROR)
    return MFD_E_CORRUPT;
  return z->avail_in > 0 && !self->ended ? MFD_E_LONG : 0;
}

static bool open_state(struct inflate_codec *self) {
  return inflateInit2(&self->state, -15) == Z_OK;
}

static void close_state(struct inflate_codec *self) {
  inflateEnd(&self->state);
}
#endif

static int64_t decompress(struct mfd_codec *codec, const uint8_t *in, size_t bytes, uint8_t *out,
                          size_t bytes_due) {
  struct inflate_codec *const self = (struct inflate_codec *)codec;
  if (self->ended)
    return MFD_E_ENDED;
  if (!self->header_read) {
    if (bytes < 2)
      return MFD_E_SHORT;
    if (!valid_header(in))
      return MFD_E_CORRUPT;
    self->header_read = true;
    in += 2;
    bytes -= 2;
  }
  const size_t room = bytes_due + MFD_PAYLOAD_SLACK;
  size_t left = room;
  const int64_t result = run(self, in, bytes, out, &left);
  if (result < 0)
    return result;
  if (room - left > bytes_due)
    return MFD_E_LONG;
  if (self->ended)
    return MFD_E_ENDED;
  return room - left < bytes_due ? MFD_E_SHORT : 0;
}

static void destroy(struct mfd_codec *codec) {
  close_state((struct inflate_codec *)codec);
  free(codec);
}

struct mfd_codec *mfd_zlib_decompressor(void) {
  struct inflate_codec *const self = calloc(1, sizeof *self);
  if (self == NULL)
    return NULL;
  self->codec = (struct mfd_codec){.decompress = decompress, .destroy = destroy};
  if (!open_state(self)) {
    free(self);
    return NULL;
  }
  return &self->codec;
}
