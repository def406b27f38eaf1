/*
 * Bitmap exchange: takes the dirty bits that another thread or process keeps setting.
 *
 * Each word is swapped with zero in one step, so a bit set meanwhile is either
 * taken now or stays for the next harvest; none is lost. Words that are zero are
 * only read: a swap would pull their cache line away from whoever sets bits.
 */
#include "internal.h"

#include <stdatomic.h>
#include <string.h>

static int64_t exchange(uint8_t *bitmap, uint64_t bytes, uint8_t *out) {
  _Atomic uint32_t *const words = (_Atomic uint32_t *)(void *)bitmap;
  int64_t bits = 0;
  for (uint64_t i = 0; i < bytes / 4; i++) {
    if (atomic_load_explicit(&words[i], memory_order_relaxed) == 0)
      continue;
    // Acquire: the page contents that the setter wrote before the bit are ours to read after it.
    const uint32_t taken = atomic_exchange_explicit(&words[i], 0, memory_order_acq_rel);
    uint32_t kept;
    memcpy(&kept, out + 4 * i, sizeof kept);
    kept |= taken;
    memcpy(out + 4 * i, &kept, sizeof kept);
    bits += __builtin_popcount(taken);
  }
  return bits;
}

int64_t mfd_exchange_bitmap(uint8_t *bitmap, double bitmap_bytes, uint8_t *out, double out_bytes) {
  uint64_t bytes, room;
  if (!mfd_size(bitmap_bytes, &bytes) || !mfd_size(out_bytes, &room))
    return MFD_E_ARGUMENT;
  if (bytes == 0)
    return 0;
  if (bitmap == NULL || out == NULL || bytes % 4 != 0 || (uintptr_t)bitmap % 4 != 0)
    return MFD_E_ARGUMENT;
  return room < bytes ? MFD_E_OUTSIDE : exchange(bitmap, bytes, out);
}

int64_t mfd_exchange_mapped_bitmap(double address, double length, uint8_t *out, double out_bytes) {
  uint8_t *at;
  const int64_t checked = mfd_mapped_range(address, length, 0, length, &at);
  return checked < 0 ? checked : mfd_exchange_bitmap(at, length, out, out_bytes);
}
