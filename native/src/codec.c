/*
 * Codec handles: contexts live in a table, and JavaScript holds small numbers.
 *
 * Any thread may create and free; a handle is used by one thread at a time, so
 * only the table's slots are shared. A slot is taken by compare-and-swap.
 */
#include "internal.h"

#include <errno.h>
#include <stdatomic.h>

#define HANDLES_MAX 1024

static _Atomic(struct mfd_codec *) slots[HANDLES_MAX];

struct mfd_codec *mfd_codec_find(uint32_t handle) {
  return handle >= 1 && handle <= HANDLES_MAX ? atomic_load(&slots[handle - 1]) : NULL;
}

static int64_t keep(struct mfd_codec *codec) {
  if (codec == NULL)
    return -ENOMEM;
  for (int i = 0; i < HANDLES_MAX; i++) {
    struct mfd_codec *empty = NULL;
    if (atomic_compare_exchange_strong(&slots[i], &empty, codec))
      return i + 1;
  }
  codec->destroy(codec);
  return -EMFILE;
}

static int64_t create_lz4(bool compressor) {
#ifdef MFD_HAVE_LZ4
  return keep(compressor ? mfd_lz4_compressor() : mfd_lz4_decompressor());
#else
  (void)compressor;
  return MFD_E_NO_CODEC;
#endif
}

int64_t mfd_compressor_create(int32_t method, int32_t level) {
  if (method == MFD_CODEC_ZLIB)
    return level < 0 || level > 9 ? MFD_E_ARGUMENT : keep(mfd_zlib_compressor(level));
  if (method == MFD_CODEC_LZ4)
    return level != 1 ? MFD_E_ARGUMENT : create_lz4(true);
  if (method != MFD_CODEC_ZSTD || level < MFD_ZSTD_STORE || level > 20)
    return MFD_E_ARGUMENT;
#ifdef MFD_HAVE_ZSTD
  return keep(level == MFD_ZSTD_STORE ? mfd_zstd_storer() : mfd_zstd_compressor(level));
#else
  return MFD_E_NO_CODEC;
#endif
}

int64_t mfd_decompressor_create(int32_t method) {
  if (method == MFD_CODEC_ZLIB)
    return keep(mfd_zlib_decompressor());
  if (method == MFD_CODEC_LZ4)
    return create_lz4(false);
  if (method != MFD_CODEC_ZSTD)
    return MFD_E_ARGUMENT;
#ifdef MFD_HAVE_ZSTD
  return keep(mfd_zstd_decompressor());
#else
  return MFD_E_NO_CODEC;
#endif
}

int64_t mfd_codec_free(int32_t handle) {
  if (handle < 1 || handle > HANDLES_MAX)
    return MFD_E_ARGUMENT;
  struct mfd_codec *const codec = atomic_exchange(&slots[handle - 1], NULL);
  if (codec == NULL)
    return MFD_E_ARGUMENT;
  codec->destroy(codec);
  return 0;
}
