/*
 * Dirty tracking: which pages of another process's mapping were written since we last asked.
 *
 * The process that writes registers its mapping with userfaultfd for
 * asynchronous write protection: a write to a protected page faults once, and
 * the kernel itself lifts the protection. PAGEMAP_SCAN then reports the pages
 * without protection and protects them again, in one step per page, so no write
 * falls between. Before its first harvest a page that was ever touched counts
 * as written. Writes through write(2) or another mapping are not seen.
 *
 * Linux 6.7 brought both; older headers lack them, hence the layouts below.
 * Source: Linux, include/uapi/linux/userfaultfd.h and include/uapi/linux/fs.h.
 */
#define _GNU_SOURCE
#include "internal.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define FEATURE_WP_HUGETLBFS_SHMEM (UINT64_C(1) << 12) /* UFFD_FEATURE_WP_HUGETLBFS_SHMEM, Linux 5.19 */
#define FEATURE_WP_UNPOPULATED (UINT64_C(1) << 13)     /* UFFD_FEATURE_WP_UNPOPULATED, Linux 6.4 */
#define FEATURE_WP_ASYNC (UINT64_C(1) << 15)           /* UFFD_FEATURE_WP_ASYNC, Linux 6.7 */

/* struct page_region, Linux 6.7 */
struct region {
  uint64_t start;
  uint64_t end;
  uint64_t categories;
};

/* struct pm_scan_arg, Linux 6.7 */
struct scan {
  uint64_t size;
  uint64_t flags;
  uint64_t start;
  uint64_t end;
  uint64_t walk_end;
  uint64_t vec;
  uint64_t vec_len;
  uint64_t max_pages;
  uint64_t category_inverted;
  uint64_t category_mask;
  uint64_t category_anyof_mask;
  uint64_t return_mask;
};
_Static_assert(sizeof(struct scan) == 96, "the kernel compares the size");

#define SCAN_IOCTL _IOWR('f', 16, struct scan)   /* PAGEMAP_SCAN */
#define SCAN_PROTECT_MATCHING (UINT64_C(1) << 0) /* PM_SCAN_WP_MATCHING */
#define SCAN_CHECK_ASYNC (UINT64_C(1) << 1)      /* PM_SCAN_CHECK_WPASYNC */
#define CATEGORY_WRITTEN (UINT64_C(1) << 1)      /* PAGE_IS_WRITTEN */
#define REGIONS_MAX 512

static int switch_on(int fd) {
  struct uffdio_api api = {
      .api = UFFD_API, .features = FEATURE_WP_HUGETLBFS_SHMEM | FEATURE_WP_UNPOPULATED | FEATURE_WP_ASYNC};
  return ioctl(fd, UFFDIO_API, &api);
}

/* A userfaultfd with the features switched on; *step as in `mfd_track_probe`. */
static int64_t open_userfaultfd(int32_t *step) {
  // We never handle a fault, so user mode alone will do, and an unprivileged process may have that.
  *step = 1;
  int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);
  if (fd < 0 && errno == EINVAL) // Linux before 5.11
    fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
  if (fd < 0)
    return -errno;
  *step = 2;
  if (switch_on(fd) < 0) {
    const int error = errno;
    close(fd);
    return -error;
  }
  return fd;
}

int64_t mfd_track_register(double address, double length) {
  uint8_t *at;
  const int64_t checked = mfd_mapped_range(address, length, 0, length, &at);
  if (checked < 0)
    return checked;
  int32_t step;
  const int64_t fd = open_userfaultfd(&step);
  if (fd < 0)
    return fd;
  struct uffdio_register range = {.range = {.start = (uintptr_t)at, .len = (uint64_t)length},
                                  .mode = UFFDIO_REGISTER_MODE_WP};
  if (ioctl((int)fd, UFFDIO_REGISTER, &range) < 0) {
    const int error = errno;
    close((int)fd);
    return -error;
  }
  return fd;
}

int64_t mfd_track_enable(int32_t tracker) {
  return switch_on(tracker) < 0 ? -errno : 0;
}

/* Another process's range: only its kernel can judge the address, and it does. */
static int64_t foreign_range(double address, double length, struct uffdio_range *out) {
  uint64_t start, bytes;
  if (!mfd_size(address, &start) || !mfd_size(length, &bytes) || start + bytes > MFD_ADDRESS_MAX)
    return MFD_E_ARGUMENT;
  *out = (struct uffdio_range){.start = start, .len = bytes};
  return 0;
}

int64_t mfd_track_register_in(int32_t tracker, double address, double length) {
  struct uffdio_register range = {.mode = UFFDIO_REGISTER_MODE_WP};
  const int64_t checked = foreign_range(address, length, &range.range);
  if (checked < 0)
    return checked;
  return ioctl(tracker, UFFDIO_REGISTER, &range) < 0 ? -errno : 0;
}

int64_t mfd_track_unregister(int32_t tracker, double address, double length) {
  struct uffdio_range range;
  const int64_t checked = foreign_range(address, length, &range);
  if (checked < 0)
    return checked;
  return ioctl(tracker, UFFDIO_UNREGISTER, &range) < 0 ? -errno : 0;
}

int64_t mfd_track_probe(int32_t *step) {
  if (step == NULL)
    return MFD_E_ARGUMENT;
  const int64_t fd = open_userfaultfd(step);
  if (fd < 0)
    return fd;
  close((int)fd);
  *step = 3;
  const int pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
  if (pagemap < 0)
    return -errno;
  // An empty range is enough, and 0 starts a page of any size: a kernel without the call answers ENOTTY.
  struct scan scan = {.size = sizeof scan,
                      .start = 0,
                      .end = 0,
                      .category_mask = CATEGORY_WRITTEN,
                      .return_mask = CATEGORY_WRITTEN};
  const int64_t result = ioctl(pagemap, SCAN_IOCTL, &scan) < 0 ? -errno : 0;
  close(pagemap);
  if (result == 0)
    *step = 0;
  return result;
}

/* Sets bits [from, end); most regions are long, so whole bytes go at once. */
static void set_bits(uint8_t *bitmap, uint64_t from, uint64_t end) {
  for (; from < end && from % 8 != 0; from++)
    bitmap[from / 8] |= (uint8_t)(1u << from % 8);
  for (; from + 8 <= end; from += 8)
    bitmap[from / 8] = 0xff;
  for (; from < end; from++)
    bitmap[from / 8] |= (uint8_t)(1u << from % 8);
}

int64_t mfd_track_harvest(int32_t pagemap_fd, double start, double length, int32_t page_bytes,
                          uint8_t *bitmap, double bitmap_bytes) {
  uint64_t from, bytes, room;
  if (!mfd_size(start, &from) || !mfd_size(length, &bytes) || !mfd_size(bitmap_bytes, &room))
    return MFD_E_ARGUMENT;
  if (bitmap == NULL || page_bytes < 512 || page_bytes > 65536 || (page_bytes & (page_bytes - 1)) != 0)
    return MFD_E_ARGUMENT;
  const uint64_t page = (uint64_t)page_bytes, pages = (bytes + page - 1) / page;
  if (from + bytes > MFD_ADDRESS_MAX)
    return MFD_E_ARGUMENT;
  if ((pages + 7) / 8 > room)
    return MFD_E_OUTSIDE;

  struct region regions[REGIONS_MAX];
  const uint64_t range_end = from + bytes;
  uint64_t found = 0;
  uint64_t counted_to = 0; // a page larger than the host's may show in two regions
  for (uint64_t at = from; at < range_end;) {
    struct scan scan = {.size = sizeof scan,
                        .flags = SCAN_PROTECT_MATCHING | SCAN_CHECK_ASYNC,
                        .start = at,
                        .end = range_end,
                        .vec = (uint64_t)(uintptr_t)regions,
                        .vec_len = REGIONS_MAX,
                        .category_mask = CATEGORY_WRITTEN,
                        .return_mask = CATEGORY_WRITTEN};
    const int count = ioctl(pagemap_fd, SCAN_IOCTL, &scan);
    if (count < 0)
      return -errno;
    for (int i = 0; i < count; i++) {
      // A huge page may reach over either end of the range; bits may not.
      const uint64_t low = regions[i].start > from ? regions[i].start : from;
      const uint64_t high = regions[i].end < range_end ? regions[i].end : range_end;
      if (low >= high)
        continue;
      const uint64_t first = (low - from) / page, end = (high - from + page - 1) / page;
      set_bits(bitmap, first, end);
      const uint64_t fresh = first > counted_to ? first : counted_to;
      if (end > fresh) {
        found += end - fresh;
        counted_to = end;
      }
    }
    if (scan.walk_end <= at)
      return MFD_E_ARGUMENT; // no progress: the range is not one that the kernel walks
    at = scan.walk_end;
  }
  return (int64_t)found;
}
