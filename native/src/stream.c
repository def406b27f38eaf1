/*
 * Whole reads and writes: a short count is not an error, it is half the work.
 *
 * Blocking sockets. A `shutdown(2)` from another thread ends a blocked send
 * with EPIPE and a blocked receive with the end of the stream; that is how a
 * migration is cancelled. SIGPIPE is never raised.
 */
#include "internal.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

int64_t mfd_socket_error(void) {
  return errno == EAGAIN || errno == EWOULDBLOCK ? MFD_E_TIMEOUT : -errno;
}

/* Steps over `bytes` that have been moved, and over iovecs that are empty. */
static void advance(struct iovec **iov, size_t *count, size_t bytes) {
  while (*count > 0 && bytes >= (*iov)->iov_len) {
    bytes -= (*iov)->iov_len;
    (*iov)++;
    (*count)--;
  }
  if (*count > 0) {
    (*iov)->iov_base = (uint8_t *)(*iov)->iov_base + bytes;
    (*iov)->iov_len -= bytes;
  }
}

static struct msghdr message(struct iovec *iov, size_t count) {
  return (struct msghdr){.msg_iov = iov, .msg_iovlen = count < MFD_IOVECS_MAX ? count : MFD_IOVECS_MAX};
}

int64_t mfd_send_all(int fd, struct iovec *iov, size_t count) {
  int64_t total = 0;
  for (advance(&iov, &count, 0); count > 0;) {
    const struct msghdr msg = message(iov, count);
    const ssize_t sent = sendmsg(fd, &msg, MSG_NOSIGNAL);
    if (sent < 0) {
      if (errno == EINTR)
        continue;
      return mfd_socket_error();
    }
    total += sent;
    advance(&iov, &count, (size_t)sent);
  }
  return total;
}

int64_t mfd_receive_all(int fd, struct iovec *iov, size_t count) {
  int64_t total = 0;
  for (advance(&iov, &count, 0); count > 0;) {
    struct msghdr msg = message(iov, count);
    const ssize_t got = recvmsg(fd, &msg, MSG_WAITALL);
    if (got < 0) {
      if (errno == EINTR)
        continue;
      return mfd_socket_error();
    }
    if (got == 0)
      break;
    total += got;
    advance(&iov, &count, (size_t)got);
  }
  return total;
}

int64_t mfd_receive_exact(int fd, void *out, size_t bytes) {
  struct iovec iov = {out, bytes};
  const int64_t got = mfd_receive_all(fd, &iov, 1);
  return got < 0 || (uint64_t)got == bytes ? got : MFD_E_CUT;
}

int64_t mfd_pread_all(int fd, uint8_t *out, size_t count, uint64_t offset) {
  while (count > 0) {
    const ssize_t got = pread(fd, out, count, (off_t)offset);
    if (got < 0) {
      if (errno == EINTR)
        continue;
      return -errno;
    }
    if (got == 0)
      return -ENODATA; // somebody cut the file short
    out += got;
    count -= (size_t)got;
    offset += (uint64_t)got;
  }
  return 0;
}

int64_t mfd_pwrite_all(int fd, const uint8_t *bytes, size_t count, uint64_t offset) {
  while (count > 0) {
    const ssize_t written = pwrite(fd, bytes, count, (off_t)offset);
    if (written < 0) {
      if (errno == EINTR)
        continue;
      return -errno;
    }
    if (written == 0)
      return -ENOSPC; // no error and no progress: the file takes no more
    bytes += written;
    count -= (size_t)written;
    offset += (uint64_t)written;
  }
  return 0;
}

int64_t mfd_send_bytes(int32_t fd, const uint8_t *bytes_in, double bytes) {
  uint64_t count;
  if (!mfd_size(bytes, &count) || (bytes_in == NULL && count > 0))
    return MFD_E_ARGUMENT;
  struct iovec iov = {(void *)(uintptr_t)bytes_in, count};
  return mfd_send_all(fd, &iov, 1);
}

int64_t mfd_receive_bytes(int32_t fd, uint8_t *out, double bytes) {
  uint64_t count;
  if (!mfd_size(bytes, &count) || (out == NULL && count > 0))
    return MFD_E_ARGUMENT;
  struct iovec iov = {out, count};
  return mfd_receive_all(fd, &iov, 1);
}

int64_t mfd_peek(int32_t fd, uint8_t *out, double bytes) {
  uint64_t count;
  if (!mfd_size(bytes, &count) || count == 0 || out == NULL)
    return MFD_E_ARGUMENT;
  for (;;) {
    const ssize_t got = recv(fd, out, count, MSG_PEEK | MSG_DONTWAIT);
    if (got >= 0)
      return got;
    if (errno != EINTR)
      return -errno;
  }
}

int64_t mfd_poll(const int32_t *fds, int32_t count, int32_t timeout_ms, uint8_t *ready) {
  struct pollfd polls[1024];
  if (count < 0 || count > 1024 || timeout_ms < -1 || (count > 0 && (fds == NULL || ready == NULL)))
    return MFD_E_ARGUMENT;
  for (int32_t i = 0; i < count; i++)
    polls[i] = (struct pollfd){.fd = fds[i], .events = POLLIN};
  // A signal may restart the wait from its beginning: the bound is kept within one signal, not to the
  // millisecond.
  int found;
  do
    found = poll(polls, (nfds_t)count, timeout_ms);
  while (found < 0 && errno == EINTR);
  if (found < 0)
    return -errno;
  for (int32_t i = 0; i < count; i++) {
    if (polls[i].revents & POLLNVAL)
      return -EBADF;
    ready[i] = polls[i].revents != 0;
  }
  return found;
}
