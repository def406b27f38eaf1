/*
 * Event descriptors and pipes: how a vhost-user device is kicked, calls back, and hands its state over.
 *
 * Event descriptors never block: taking from one that nobody signalled is an
 * answer, not a wait. Waiting is mfd_poll's business.
 */
#define _GNU_SOURCE
#include "internal.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/eventfd.h>
#include <unistd.h>

int64_t mfd_eventfd(int32_t initial) {
  if (initial < 0)
    return MFD_E_ARGUMENT;
  const int fd = eventfd((unsigned)initial, EFD_CLOEXEC | EFD_NONBLOCK);
  return fd < 0 ? -errno : fd;
}

int64_t mfd_eventfd_signal(int32_t fd) {
  const uint64_t one = 1;
  ssize_t written;
  do
    written = write(fd, &one, sizeof one);
  while (written < 0 && errno == EINTR);
  // Full: it has been signalled 2^64 - 2 times and nobody looked; once more says nothing new.
  return written < 0 && errno != EAGAIN ? -errno : 0;
}

int64_t mfd_eventfd_take(int32_t fd) {
  uint64_t count = 0;
  ssize_t got;
  // One that came from another process may block, and must not: look before.
  struct iovec iov = {&count, sizeof count};
  do
    got = preadv2(fd, &iov, 1, -1, RWF_NOWAIT);
  while (got < 0 && errno == EINTR);
  if (got < 0)
    return errno == EAGAIN ? 0 : -errno;
  if (got != sizeof count)
    return -EINVAL; // somebody else's descriptor, and no event
  return count > INT32_MAX ? INT32_MAX : (int64_t)count;
}

int64_t mfd_pipe(int32_t *out) {
  if (out == NULL)
    return MFD_E_ARGUMENT;
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) < 0)
    return -errno;
  out[0] = ends[0];
  out[1] = ends[1];
  return 0;
}
