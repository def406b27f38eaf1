/*
 * Checks: numbers and page lists meet their limits here, before they become sizes or addresses.
 */
#include "internal.h"

_Static_assert(offsetof(struct mfd_packet, pages) == 128, "packet-block.ts counts on it");
_Static_assert(offsetof(struct mfd_packet, header) == 4224, "packet-block.ts counts on it");
_Static_assert(offsetof(struct mfd_packet, payload) == 12800, "packet-block.ts counts on it");
_Static_assert(offsetof(struct mfd_packet, pages_scratch) == 1065472, "packet-block.ts counts on it");
_Static_assert(sizeof(struct mfd_packet) == 1593856, "packet-block.ts allocates it");

bool mfd_size(double value, uint64_t *out) {
  if (!(value >= 0 && value <= 9007199254740991.0))
    return false; // NaN fails both comparisons
  *out = (uint64_t)value;
  return (double)*out == value;
}

int64_t mfd_mapped_range(double address, double length, double offset, double bytes, uint8_t **at) {
  uint64_t start, size, from, count;
  if (!mfd_size(address, &start) || !mfd_size(length, &size) || !mfd_size(offset, &from) ||
      !mfd_size(bytes, &count))
    return MFD_E_ARGUMENT;
  if (start == 0 || start + size > MFD_ADDRESS_MAX)
    return MFD_E_ARGUMENT;
  if (from > size || count > size - from)
    return MFD_E_OUTSIDE;
  *at = (uint8_t *)(uintptr_t)(start + from);
  return 0;
}

int64_t mfd_check_pages(const struct mfd_packet *packet, uint64_t count, uint64_t bytes_max) {
  const uint64_t page_bytes = packet->page_bytes;
  if (page_bytes < 512 || page_bytes > 65536 || (page_bytes & (page_bytes - 1)) != 0)
    return MFD_E_ARGUMENT;
  if (count > MFD_PAGES_MAX || count * page_bytes > bytes_max)
    return MFD_E_ARGUMENT;
  if (packet->length > MFD_ADDRESS_MAX || packet->address > MFD_ADDRESS_MAX ||
      packet->file_offset > MFD_ADDRESS_MAX)
    return MFD_E_ARGUMENT;
  const uint64_t pages_in_block = packet->length / page_bytes;
  for (uint64_t i = 0; i < count; i++)
    if (packet->pages[i] >= pages_in_block)
      return MFD_E_OUTSIDE;
  return 0;
}
