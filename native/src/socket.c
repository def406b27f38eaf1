/*
 * Sockets: opened, accepted, closed. All are close-on-exec, and blocking but for listeners.
 *
 * A listener does not block, since whoever waits may vanish between the wait
 * and the accept; what it accepts blocks again. A blocked call ends when another
 * thread shuts the socket down; closing it would not wake anyone.
 */
#define _GNU_SOURCE
#include "internal.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

/* Two packets, so that a sender seldom sleeps while its receiver places one. CPU per byte is the same from
 * 208 KiB to 2 MiB. */
#define UNIX_SEND_BUFFER_BYTES (1 << 20)

union address {
  struct sockaddr any;
  struct sockaddr_in v4;
  struct sockaddr_in6 v6;
  struct sockaddr_un local;
};

/* Fills *out; returns the address's length, or a negative result. */
static int64_t fill_address(union address *out, int32_t family, const char *host, int32_t port) {
  memset(out, 0, sizeof *out);
  if (host == NULL || port < 0 || port > 65535)
    return MFD_E_ARGUMENT;
  if (family == 4) {
    out->v4.sin_family = AF_INET;
    out->v4.sin_port = htons((uint16_t)port);
    return inet_pton(AF_INET, host, &out->v4.sin_addr) == 1 ? (int64_t)sizeof out->v4 : MFD_E_ARGUMENT;
  }
  if (family == 6) {
    out->v6.sin6_family = AF_INET6;
    out->v6.sin6_port = htons((uint16_t)port);
    return inet_pton(AF_INET6, host, &out->v6.sin6_addr) == 1 ? (int64_t)sizeof out->v6 : MFD_E_ARGUMENT;
  }
  if (family != 1)
    return MFD_E_ARGUMENT;
  const size_t bytes = strlen(host);
  if (bytes == 0)
    return MFD_E_ARGUMENT;
  if (bytes >= sizeof out->local.sun_path)
    return -ENAMETOOLONG;
  out->local.sun_family = AF_UNIX;
  memcpy(out->local.sun_path, host, bytes);
  const size_t head = offsetof(struct sockaddr_un, sun_path);
  if (host[0] != '@')
    return (int64_t)(head + bytes + 1);
  out->local.sun_path[0] = 0; // an abstract name has a length and no terminator
  return (int64_t)(head + bytes);
}

/* Best effort: a system that refuses gives a slower channel, not a broken one. */
static void tune(int fd, int family) {
  const int on = 1, bytes = UNIX_SEND_BUFFER_BYTES;
  if (family == AF_UNIX)
    setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof bytes);
  else
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

static int64_t close_with(int fd, int64_t result) {
  close(fd);
  return result;
}

static int64_t now_ms(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static int64_t set_timeout(int fd, int option, int32_t timeout_ms) {
  const struct timeval bound = {timeout_ms / 1000, timeout_ms % 1000 * 1000};
  return setsockopt(fd, SOL_SOCKET, option, &bound, sizeof bound) < 0 ? -errno : 0;
}

/* A full backlog makes a non-blocking unix connect fail at once, so here the send time-out bounds a blocking
 * one. */
static int64_t connect_unix(int fd, const union address *to, socklen_t bytes, int32_t timeout_ms) {
  set_timeout(fd, SO_SNDTIMEO, timeout_ms > 0 ? timeout_ms : 0);
  int result;
  do
    result = connect(fd, &to->any, bytes);
  while (result < 0 && errno == EINTR);
  return result < 0 ? mfd_socket_error() : set_timeout(fd, SO_SNDTIMEO, 0);
}

static int64_t connect_tcp(int fd, const union address *to, socklen_t bytes, int32_t timeout_ms) {
  fcntl(fd, F_SETFL, O_NONBLOCK);
  if (connect(fd, &to->any, bytes) < 0) {
    if (errno != EINPROGRESS && errno != EINTR)
      return -errno;
    const int64_t end = now_ms() + timeout_ms;
    for (;;) {
      const int64_t left = timeout_ms < 0 ? -1 : end - now_ms();
      struct pollfd waiting = {.fd = fd, .events = POLLOUT};
      const int ready = poll(&waiting, 1, left < 0 && timeout_ms >= 0 ? 0 : (int)left);
      if (ready > 0)
        break;
      if (ready == 0)
        return MFD_E_TIMEOUT;
      if (errno != EINTR)
        return -errno;
    }
    int error = 0;
    socklen_t size = sizeof error;
    if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size) < 0)
      return -errno;
    if (error != 0)
      return -error;
  }
  return fcntl(fd, F_SETFL, 0) < 0 ? -errno : 0;
}

int64_t mfd_connect(int32_t family, const char *host, int32_t port, int32_t timeout_ms) {
  union address to;
  const int64_t bytes = fill_address(&to, family, host, port);
  if (bytes < 0)
    return bytes;
  if (timeout_ms == 0 || timeout_ms < -1)
    return MFD_E_ARGUMENT;
  const int fd = socket(to.any.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0)
    return -errno;
  const int64_t result = family == 1 ? connect_unix(fd, &to, (socklen_t)bytes, timeout_ms)
                                     : connect_tcp(fd, &to, (socklen_t)bytes, timeout_ms);
  if (result < 0)
    return close_with(fd, result);
  tune(fd, to.any.sa_family);
  return fd;
}

int64_t mfd_listen(int32_t family, const char *host, int32_t port, int32_t backlog) {
  union address at;
  const int64_t bytes = fill_address(&at, family, host, port);
  if (bytes < 0)
    return bytes;
  if (backlog < 0)
    return MFD_E_ARGUMENT;
  const int fd = socket(at.any.sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0)
    return -errno;
  const int on = 1;
  if (family != 1)
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  if (bind(fd, &at.any, (socklen_t)bytes) < 0 || listen(fd, backlog) < 0)
    return close_with(fd, -errno);
  return fd;
}

int64_t mfd_path_in_use(const char *path) {
  union address at;
  const int64_t bytes = fill_address(&at, 1, path, 0);
  if (bytes < 0)
    return bytes;
  const int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (fd < 0)
    return -errno;
  // A socket of another kind than the one that may be bound there: the kernel tells it apart, and nobody is
  // called.
  const int refusal = connect(fd, &at.any, (socklen_t)bytes) < 0 ? errno : 0;
  close(fd);
  return refusal != ECONNREFUSED && refusal != ENOENT;
}

int64_t mfd_accept(int32_t fd) {
  // An inherited listener may block: look before.
  struct pollfd waiting = {.fd = fd, .events = POLLIN};
  int accepted;
  do {
    const int ready = poll(&waiting, 1, 0);
    if (ready == 0)
      return -EAGAIN;
    accepted = accept4(fd, NULL, NULL, SOCK_CLOEXEC);
  } while (accepted < 0 && (errno == EINTR || errno == ECONNABORTED));
  if (accepted < 0)
    return -errno;
  union address self;
  socklen_t bytes = sizeof self;
  if (getsockname(accepted, &self.any, &bytes) == 0)
    tune(accepted, self.any.sa_family);
  return accepted;
}

int64_t mfd_local_port(int32_t fd) {
  union address self;
  socklen_t bytes = sizeof self;
  if (getsockname(fd, &self.any, &bytes) < 0)
    return -errno;
  if (self.any.sa_family == AF_INET)
    return ntohs(self.v4.sin_port);
  return self.any.sa_family == AF_INET6 ? ntohs(self.v6.sin6_port) : 0;
}

int64_t mfd_shutdown(int32_t fd) {
  return shutdown(fd, SHUT_RDWR) < 0 ? -errno : 0;
}

int64_t mfd_shutdown_write(int32_t fd) {
  return shutdown(fd, SHUT_WR) < 0 ? -errno : 0;
}

int64_t mfd_close(int32_t fd) {
  // After EINTR the descriptor is gone on Linux; trying again could close another thread's.
  return close(fd) < 0 && errno != EINTR ? -errno : 0;
}

int64_t mfd_socketpair(int32_t *out) {
  if (out == NULL)
    return MFD_E_ARGUMENT;
  int pair[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
    return -errno;
  for (int i = 0; i < 2; i++) {
    tune(pair[i], AF_UNIX);
    out[i] = pair[i];
  }
  return 0;
}

int64_t mfd_socket_timeout(int32_t fd, int32_t timeout_ms) {
  if (timeout_ms < 0)
    return MFD_E_ARGUMENT;
  const int64_t result = set_timeout(fd, SO_RCVTIMEO, timeout_ms);
  return result < 0 ? result : set_timeout(fd, SO_SNDTIMEO, timeout_ms);
}
