/*
 * Without one system call: runs a command under a seccomp filter that refuses it.
 *
 *   without-userfaultfd COMMAND [ARGUMENT…]      as in many containers
 *   without-pidfd-getfd COMMAND [ARGUMENT…]      as where nobody may be traced
 *
 * Tests show what is left there.
 */
#define _GNU_SOURCE
#include <err.h>
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef REFUSED
#define REFUSED SYS_userfaultfd
#endif

int main(int count, char **words) {
  if (count < 2)
    errx(2, "%s COMMAND [ARGUMENT...]", words[0]);
  struct sock_filter rules[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, REFUSED, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  const struct sock_fprog filter = {.len = sizeof rules / sizeof rules[0], .filter = rules};
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) < 0)
    err(1, "seccomp");
  execvp(words[1], words + 1);
  err(1, "%s", words[1]);
}
