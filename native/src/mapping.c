/*
 * Mappings and files: guest RAM as shared memory, and the storage behind it.
 *
 * A mapping never reaches past its file: touching what lies behind the end of a
 * file raises SIGBUS, so the length is compared with the file's first.
 */
#define _GNU_SOURCE
#include "internal.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

int64_t mfd_map(int32_t fd, double offset, double length, int32_t writable) {
  uint64_t from, bytes;
  if (!mfd_size(offset, &from) || !mfd_size(length, &bytes) || bytes == 0)
    return MFD_E_ARGUMENT;
  struct stat file;
  if (fstat(fd, &file) < 0)
    return -errno;
  if (S_ISREG(file.st_mode) && from + bytes > (uint64_t)file.st_size)
    return MFD_E_OUTSIDE;
  const int protection = writable ? PROT_READ | PROT_WRITE : PROT_READ;
  void *const at = mmap(NULL, bytes, protection, MAP_SHARED, fd, (off_t)from);
  return at == MAP_FAILED ? -errno : (int64_t)(uintptr_t)at;
}

int64_t mfd_unmap(double address, double length) {
  uint8_t *at;
  const int64_t checked = mfd_mapped_range(address, length, 0, length, &at);
  if (checked < 0)
    return checked;
  return munmap(at, (size_t)length) < 0 ? -errno : 0;
}

int64_t mfd_memfd(const char *name, double length, double huge_page_bytes) {
  uint64_t bytes, huge;
  if (name == NULL || !mfd_size(length, &bytes) || !mfd_size(huge_page_bytes, &huge))
    return MFD_E_ARGUMENT;
  // Linux's own MFD_ flags; log2 of the page size sits in the top bits, as in mmap's.
  unsigned flags = MFD_CLOEXEC;
  if (huge == UINT64_C(1) << 21)
    flags |= MFD_HUGETLB | 21u << MAP_HUGE_SHIFT;
  else if (huge == UINT64_C(1) << 30)
    flags |= MFD_HUGETLB | 30u << MAP_HUGE_SHIFT;
  else if (huge != 0)
    return MFD_E_ARGUMENT;
  const int fd = memfd_create(name, flags);
  if (fd < 0)
    return -errno;
  if (ftruncate(fd, (off_t)bytes) < 0) {
    const int error = errno;
    close(fd);
    return -error;
  }
  return fd;
}

int64_t mfd_read_memory(double address, double length, double offset, uint8_t *out, double bytes) {
  uint8_t *at;
  const int64_t checked = mfd_mapped_range(address, length, offset, bytes, &at);
  if (checked < 0)
    return checked;
  if (bytes > 0)
    memcpy(out, at, (size_t)bytes);
  return 0;
}

int64_t mfd_write_memory(double address, double length, double offset, const uint8_t *bytes_in,
                         double bytes) {
  uint8_t *at;
  const int64_t checked = mfd_mapped_range(address, length, offset, bytes, &at);
  if (checked < 0)
    return checked;
  if (bytes > 0)
    memcpy(at, bytes_in, (size_t)bytes);
  return 0;
}

static int64_t allocate(int fd, int mode, double offset, double length) {
  uint64_t from, bytes;
  if (!mfd_size(offset, &from) || !mfd_size(length, &bytes))
    return MFD_E_ARGUMENT;
  if (bytes == 0)
    return 0; // the system call refuses an empty range
  int result;
  do
    result = fallocate(fd, mode, (off_t)from, (off_t)bytes);
  while (result < 0 && errno == EINTR);
  return result < 0 ? -errno : 0;
}

int64_t mfd_reserve(int32_t fd, double length) {
  return allocate(fd, 0, 0, length);
}

int64_t mfd_punch(int32_t fd, double offset, double length) {
  return allocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, length);
}

static int64_t seek(int fd, double offset, int whence) {
  uint64_t from;
  if (!mfd_size(offset, &from))
    return MFD_E_ARGUMENT;
  const off_t at = lseek(fd, (off_t)from, whence);
  return at < 0 ? -errno : at;
}

int64_t mfd_lock_file(int32_t fd, int32_t take) {
  return flock(fd, take == 1 ? LOCK_EX | LOCK_NB : LOCK_UN) < 0 ? -errno : 0;
}

int64_t mfd_seek_data(int32_t fd, double offset) {
  return seek(fd, offset, SEEK_DATA);
}

int64_t mfd_seek_hole(int32_t fd, double offset) {
  return seek(fd, offset, SEEK_HOLE);
}

int64_t mfd_huge_page_bytes(int32_t fd) {
  struct statfs volume;
  if (fstatfs(fd, &volume) < 0)
    return -errno;
  return volume.f_type == HUGETLBFS_MAGIC ? (int64_t)volume.f_bsize : 0;
}
