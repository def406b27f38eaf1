/*
 * multifd-attach: a userfaultfd over the memory of a running process.
 *
 *   multifd-attach PID TIMEOUT_MS           opens one in the process, through ptrace (inject.c)
 *   multifd-attach PID TIMEOUT_MS FD        takes a copy of the one that the process holds as FD
 *
 * The copy goes to the unix socket that the caller passes as descriptor 3. On
 * success the program prints nothing and returns 0; else it prints `WHAT ERRNO` and returns 1.
 *
 * It is a program of its own, and not a function of the library, for three
 * reasons: a tracer is a thread that waits for its tracee, and Node's own wait for a
 * child would take the tracee's stops for its end; a bound on time is one alarm
 * that ends the program, since dying is safe at every step; and where a system
 * restricts ptrace, this file alone can be given the right (setcap cap_sys_ptrace+ep).
 */
#define _GNU_SOURCE
#include "attach.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <unistd.h>

#define CALLER 3
#define TIMEOUT_MS_MAX 60000

static long number(const char *word, long min, long max) {
  char *end;
  errno = 0;
  const long value = strtol(word, &end, 10);
  if (errno != 0 || *end != '\0' || end == word || value < min || value > max)
    give_up("usage", EINVAL);
  return value;
}

static void hand_over(int fd) {
  char byte = 0;
  struct iovec iov = {&byte, 1};
  _Alignas(struct cmsghdr) uint8_t control[CMSG_SPACE(sizeof fd)] = {0};
  struct msghdr msg = {
      .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
  struct cmsghdr *const head = CMSG_FIRSTHDR(&msg);
  head->cmsg_level = SOL_SOCKET;
  head->cmsg_type = SCM_RIGHTS;
  head->cmsg_len = CMSG_LEN(sizeof fd);
  memcpy(CMSG_DATA(head), &fd, sizeof fd);
  if (sendmsg(CALLER, &msg, MSG_NOSIGNAL) != 1)
    give_up("hand-over", errno);
}

int main(int count, char **words) {
  if (count != 3 && count != 4)
    give_up("usage", EINVAL);
  const pid_t pid = (pid_t)number(words[1], 1, INT32_MAX);
  const long timeout_ms = number(words[2], 1, TIMEOUT_MS_MAX);
  const int held = count == 4 ? (int)number(words[3], 0, INT32_MAX) : -1;

  // SIGALRM ends this program whatever it is waiting for, and then the kernel detaches.
  signal(SIGALRM, SIG_DFL);
  sigset_t alarm;
  sigemptyset(&alarm);
  sigaddset(&alarm, SIGALRM);
  sigprocmask(SIG_UNBLOCK, &alarm, NULL);
  const struct itimerval bound = {.it_value = {timeout_ms / 1000, timeout_ms % 1000 * 1000}};
  setitimer(ITIMER_REAL, &bound, NULL);

  const int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
  if (pidfd < 0)
    give_up("process", errno);
  if (held < 0) {
    hand_over(open_userfaultfd_in(pid, pidfd));
    return 0;
  }
  const int copy = (int)syscall(SYS_pidfd_getfd, pidfd, held, 0);
  if (copy < 0)
    give_up("copy", errno);
  hand_over(copy);
  return 0;
}
