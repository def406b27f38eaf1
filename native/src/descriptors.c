/*
 * Descriptors over a unix socket (SCM_RIGHTS), one message at a time.
 *
 * What arrives is ours to close: descriptors beyond what the caller asked for
 * are closed here, and so are all of them when the kernel had to cut the list.
 */
#define _GNU_SOURCE
#include "internal.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define DESCRIPTORS_MAX 64
/* The kernel never passes more than this in one message (SCM_MAX_FD). */
#define DESCRIPTORS_WIRE_MAX 253

int64_t mfd_send_descriptors(int32_t fd, const uint8_t *bytes_in, double bytes, const int32_t *fds,
                             int32_t count) {
  uint64_t size;
  // Descriptors ride on at least one byte.
  if (!mfd_size(bytes, &size) || size == 0 || bytes_in == NULL)
    return MFD_E_ARGUMENT;
  if (count < 0 || count > DESCRIPTORS_MAX || (count > 0 && fds == NULL))
    return MFD_E_ARGUMENT;
  struct iovec iov = {(void *)(uintptr_t)bytes_in, size};
  struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
  _Alignas(struct cmsghdr) uint8_t control[CMSG_SPACE(DESCRIPTORS_MAX * sizeof(int))] = {0};
  if (count > 0) {
    const size_t fds_bytes = (size_t)count * sizeof(int);
    msg.msg_control = control;
    msg.msg_controllen = CMSG_SPACE(fds_bytes);
    struct cmsghdr *const head = CMSG_FIRSTHDR(&msg);
    head->cmsg_level = SOL_SOCKET;
    head->cmsg_type = SCM_RIGHTS;
    head->cmsg_len = CMSG_LEN(fds_bytes);
    memcpy(CMSG_DATA(head), fds, fds_bytes);
  }
  ssize_t sent;
  do
    sent = sendmsg(fd, &msg, MSG_NOSIGNAL);
  while (sent < 0 && errno == EINTR);
  if (sent < 0)
    return mfd_socket_error();
  // The descriptors went with the first byte; what is left of the message is plain bytes.
  iov = (struct iovec){(uint8_t *)(uintptr_t)bytes_in + sent, size - (size_t)sent};
  const int64_t rest = mfd_send_all(fd, &iov, 1);
  return rest < 0 ? rest : sent + rest;
}

int64_t mfd_receive_descriptors(int32_t fd, uint8_t *out, double bytes, int32_t *fds, int32_t fds_max,
                                int32_t *count) {
  uint64_t size;
  if (!mfd_size(bytes, &size) || size == 0 || out == NULL || count == NULL)
    return MFD_E_ARGUMENT;
  if (fds_max < 0 || fds_max > DESCRIPTORS_MAX || (fds_max > 0 && fds == NULL))
    return MFD_E_ARGUMENT;
  *count = 0;
  struct iovec iov = {out, size};
  _Alignas(struct cmsghdr) uint8_t control[CMSG_SPACE(DESCRIPTORS_WIRE_MAX * sizeof(int))];
  struct msghdr msg = {
      .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
  ssize_t got;
  do
    got = recvmsg(fd, &msg, MSG_CMSG_CLOEXEC);
  while (got < 0 && errno == EINTR);
  if (got < 0)
    return mfd_socket_error();

  const bool cut = (msg.msg_flags & MSG_CTRUNC) != 0;
  int32_t kept = 0;
  for (struct cmsghdr *head = CMSG_FIRSTHDR(&msg); head != NULL; head = CMSG_NXTHDR(&msg, head)) {
    if (head->cmsg_level != SOL_SOCKET || head->cmsg_type != SCM_RIGHTS)
      continue;
    const size_t came = (head->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < came; i++) {
      int one;
      memcpy(&one, CMSG_DATA(head) + i * sizeof one, sizeof one);
      if (kept < fds_max && !cut)
        fds[kept++] = one;
      else
        close(one);
    }
  }
  *count = kept;
  return got;
}
