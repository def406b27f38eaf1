/*
 * Page runs: neighbouring pages travel as one piece, for a system call costs more than a page.
 *
 * The caller has checked every index. A page goes into a mapping by memcpy, into
 * a file by pwrite, and into a file that lacks it by UFFDIO_COPY where
 * the file can do that. All spare the zeroing of a page that is overwritten at
 * once; the last takes no lock of the file, for which the channels would queue.
 * A page that the file has got already is written over by pwrite.
 */
#define _GNU_SOURCE
#include "internal.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

uint32_t mfd_run_pages(const uint32_t *pages, uint32_t at, uint32_t count) {
  uint32_t end = at + 1;
  while (end < count && pages[end] == pages[end - 1] + 1)
    end++;
  return end - at;
}

int64_t mfd_fresh_register(double address, double length) {
  uint8_t *at;
  const int64_t checked = mfd_mapped_range(address, length, 0, length, &at);
  if (checked < 0)
    return checked;
  // We never handle a fault, so user mode alone will do, and an unprivileged process may have that.
  const int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);
  if (fd < 0)
    return -errno;
  struct uffdio_api api = {.api = UFFD_API};
  struct uffdio_register range = {.range = {.start = (uintptr_t)at, .len = (uint64_t)length},
                                  .mode = UFFDIO_REGISTER_MODE_MISSING};
  if (ioctl(fd, UFFDIO_API, &api) < 0 || ioctl(fd, UFFDIO_REGISTER, &range) < 0) {
    const int error = errno;
    close(fd);
    return -error;
  }
  return fd;
}

/* Makes a run's leading pages that the file lacks; returns their bytes, 0 for any reason not to. */
static uint64_t make_pages(const struct mfd_place *place, uint64_t offset, const uint8_t *bytes,
                           uint64_t count) {
  struct uffdio_copy copy = {.dst = place->address + offset,
                             .src = (uintptr_t)bytes,
                             .len = count,
                             .mode = UFFDIO_COPY_MODE_DONTWAKE};
  if (ioctl(place->fresh, UFFDIO_COPY, &copy) == 0)
    return count;
  return copy.copy > 0 ? (uint64_t)copy.copy : 0;
}

int64_t mfd_place_bytes(const struct mfd_place *place, uint64_t offset, const uint8_t *bytes,
                        uint64_t count) {
  if (place->file < 0) {
    memcpy((uint8_t *)(uintptr_t)(place->address + offset), bytes, count);
    return 0;
  }
  const uint64_t made = place->fresh < 0 || place->address == 0 ? 0 : make_pages(place, offset, bytes, count);
  // A file system that is full says so to pwrite, not before.
  return mfd_pwrite_all(place->file, bytes + made, count - made, place->file_offset + offset + made);
}

int64_t mfd_write_pages(const struct mfd_packet *packet, uint32_t first, uint32_t count,
                        const uint8_t *bytes) {
  const struct mfd_place place = {packet->address, packet->file_offset, packet->file, packet->fresh};
  const uint64_t page_bytes = packet->page_bytes;
  for (uint32_t i = first; i < first + count;) {
    const uint32_t run = mfd_run_pages(packet->pages, i, first + count);
    const int64_t result = mfd_place_bytes(&place, packet->pages[i] * page_bytes, bytes, run * page_bytes);
    if (result < 0)
      return result;
    bytes += run * page_bytes;
    i += run;
  }
  return 0;
}
