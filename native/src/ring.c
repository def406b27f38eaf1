/*
 * Rings and logs in memory that another process reads and writes at the same time.
 *
 * A ring's index is what publishes the entries before it, so it is loaded with
 * acquire and stored with full ordering; a dirty log's bits are set with an
 * atomic OR, after the page was written, for the other side takes them with an exchange.
 */
#include "internal.h"

#include <stdatomic.h>

static int64_t index_at(double address, double length, double offset, _Atomic uint16_t **at) {
  uint8_t *bytes;
  const int64_t checked = mfd_mapped_range(address, length, offset, 2, &bytes);
  if (checked < 0)
    return checked;
  if ((uintptr_t)bytes % 2 != 0)
    return MFD_E_ARGUMENT;
  *at = (_Atomic uint16_t *)(void *)bytes;
  return 0;
}

int64_t mfd_load_index(double address, double length, double offset) {
  _Atomic uint16_t *at;
  const int64_t checked = index_at(address, length, offset, &at);
  return checked < 0 ? checked : atomic_load_explicit(at, memory_order_acquire);
}

int64_t mfd_store_index(double address, double length, double offset, int32_t value) {
  _Atomic uint16_t *at;
  const int64_t checked = index_at(address, length, offset, &at);
  if (checked < 0)
    return checked;
  if (value < 0 || value > UINT16_MAX)
    return MFD_E_ARGUMENT;
  // Full ordering: whether the other side wants a call is read behind this, and must not be read before.
  atomic_store(at, (uint16_t)value);
  atomic_thread_fence(memory_order_seq_cst);
  return 0;
}

int64_t mfd_mark_pages(double address, double length, double first, double count) {
  uint64_t page, pages;
  uint8_t *log;
  const int64_t checked = mfd_mapped_range(address, length, 0, length, &log);
  if (checked < 0)
    return checked;
  if (!mfd_size(first, &page) || !mfd_size(count, &pages))
    return MFD_E_ARGUMENT;
  const uint64_t end = page + pages, room = (uint64_t)length * 8;
  if (end > room)
    return MFD_E_OUTSIDE;
  _Atomic uint8_t *const bytes = (_Atomic uint8_t *)(void *)log;
  while (page < end) {
    const uint64_t in_byte = 8 - page % 8, run = end - page < in_byte ? end - page : in_byte;
    const uint8_t bits = (uint8_t)(((1u << run) - 1) << (page % 8));
    atomic_fetch_or_explicit(&bytes[page / 8], bits, memory_order_release);
    page += run;
  }
  return 0;
}
