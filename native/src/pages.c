/*
 * Page runs: neighbouring pages travel as one piece, for a system call costs more than a page.
 *
 * Pages are placed through a file by pwrite, or into the mapping by memcpy; the
 * caller has checked every index. Writing through the file spares the page
 * fault and the zeroing that a first touch of fresh shared memory costs.
 */
#include "internal.h"

#include <string.h>

uint32_t mfd_run_pages(const uint32_t *pages, uint32_t at, uint32_t count) {
  uint32_t end = at + 1;
  while (end < count && pages[end] == pages[end - 1] + 1)
    end++;
  return end - at;
}

uint64_t mfd_file_offset(const struct mfd_packet *packet) {
  return (uint64_t)packet->file_page * packet->page_bytes;
}

int64_t mfd_write_pages(const struct mfd_packet *packet, uint32_t first, uint32_t count,
                        const uint8_t *bytes) {
  const uint64_t page_bytes = packet->page_bytes;
  for (uint32_t i = first; i < first + count;) {
    const uint32_t run = mfd_run_pages(packet->pages, i, first + count);
    const uint64_t offset = packet->pages[i] * page_bytes;
    const size_t run_bytes = run * page_bytes;
    if (packet->file >= 0) {
      const int64_t result = mfd_pwrite_all(packet->file, bytes, run_bytes, mfd_file_offset(packet) + offset);
      if (result < 0)
        return result;
    } else {
      memcpy((uint8_t *)(uintptr_t)(packet->address + offset), bytes, run_bytes);
    }
    bytes += run_bytes;
    i += run;
  }
  return 0;
}
