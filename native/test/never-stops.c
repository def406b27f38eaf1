/*
 * Never stops: a process whose main thread waits where no tracer can stop it.
 *
 * Between vfork and the child's exec the parent sleeps in the kernel, deaf to
 * everything but SIGKILL, as one does that waits for a broken disk. It says so first.
 */
#define _GNU_SOURCE
#include <err.h>
#include <signal.h>
#include <sys/prctl.h>
#include <unistd.h>

int main(void) {
  if (write(STDOUT_FILENO, "waiting\n", 8) != 8)
    err(1, "stdout");
  const pid_t child = vfork();
  if (child < 0)
    err(1, "vfork");
  if (child == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (;;)
      pause();
  }
  return 0;
}
