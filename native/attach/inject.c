/*
 * Injection: a userfaultfd of another process, opened by its own main thread.
 *
 * A userfaultfd watches the memory of whoever opened it, so the process has to
 * make that one system call itself; everything else (features, registering,
 * unregistering) can be done through a copy of the descriptor from outside. So
 * the thread keeps nothing: it opens, we copy, it closes, and when the copy is
 * closed, by us or by our death, the kernel forgets every trace of it.
 *
 *   seize, interrupt        the thread stops, in user mode or at the end of a system call
 *   code into unused room   no instruction that anybody runs is overwritten
 *   registers: to the stub  the one step that changes the thread, and it is atomic
 *   two system calls        stopped at each end; the descriptor is copied in between
 *   registers: as before    with the system call to be restarted, exactly as at the stop
 *   room cleared, detach
 *
 * If this program dies, the kernel detaches. Before the registers are set the
 * thread then goes on unchanged; afterwards it runs the stub to its end and
 * goes on. Nothing steps it by hardware flag, which would outlive us.
 * Source: ptrace(2); Linux, kernel/ptrace.c, __ptrace_unlink(); arch/x86/kernel/signal.c,
 * arch_do_signal_or_restart().
 */
#define _GNU_SOURCE
#include "attach.h"

#include <errno.h>

#if !defined(__x86_64__)

int open_userfaultfd_in(pid_t pid, int pidfd) {
  (void)pid;
  (void)pidfd;
  give_up("architecture", ENOSYS);
}

#else

#include <signal.h>
#include <stdbool.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#define USER_CODE_64 0x33 /* the code segment of a 64-bit thread */
#define STUB_MAX 128
#define ROOMS_MAX 16
/* Stops that are not ours to wait for: signals on their way to the thread. */
#define OTHER_STOPS_MAX 1000
#define RESTART_SYSCALL 219

/* What a system call that a signal cut short leaves in rax, until the kernel restarts it (linux/errno.h). */
#define RESTART_SYS (-512)
#define RESTART_NO_INTERRUPT (-513)
#define RESTART_NO_HANDLER (-514)
#define RESTART_BLOCK (-516)

enum stop { STOPPED, SYSCALL_ENTERED, SYSCALL_LEFT };

/* Lets the thread run (request 0: it does already) until it stops for us; signals go on to it. */
static enum stop run_to_stop(pid_t pid, int request) {
  long signal = 0;
  for (int stops = 0; stops < OTHER_STOPS_MAX; stops++) {
    if (request != 0 && ptrace(request, pid, 0, signal) < 0)
      give_up("continue", errno);
    int status;
    if (waitpid(pid, &status, __WALL) != pid)
      give_up("wait", errno);
    if (!WIFSTOPPED(status))
      give_up("ended", ESRCH);
    signal = WSTOPSIG(status);
    if (status >> 16 == PTRACE_EVENT_STOP)
      return STOPPED;
    if (signal == (SIGTRAP | 0x80)) {
      struct __ptrace_syscall_info info = {0};
      if (ptrace(PTRACE_GET_SYSCALL_INFO, pid, sizeof info, &info) < 0)
        give_up("system-call-info", errno);
      return info.op == PTRACE_SYSCALL_INFO_ENTRY ? SYSCALL_ENTERED : SYSCALL_LEFT;
    }
    if (request == 0)
      request = PTRACE_CONT;
  }
  give_up("signals", EAGAIN);
}

static void read_registers(pid_t pid, struct user_regs_struct *registers) {
  if (ptrace(PTRACE_GETREGS, pid, 0, registers) < 0)
    give_up("registers", errno);
}

static bool write_code(pid_t pid, uint64_t at, const uint8_t *code, size_t bytes) {
  for (size_t done = 0; done < bytes; done += 8) {
    uint64_t word;
    memcpy(&word, code + done, sizeof word);
    if (ptrace(PTRACE_POKETEXT, pid, at + done, word) < 0)
      return false;
    errno = 0;
    if ((uint64_t)ptrace(PTRACE_PEEKTEXT, pid, at + done, 0) != word || errno != 0)
      return false;
  }
  return true;
}

/* Where the thread goes on by itself, and with what in rax: a system call that was cut short begins anew. */
static uint64_t way_home(struct user_regs_struct *registers) {
  if ((int)registers->orig_rax == -1)
    return registers->rip;
  switch ((long long)registers->rax) {
  case RESTART_SYS:
  case RESTART_NO_INTERRUPT:
  case RESTART_NO_HANDLER:
    registers->rax = registers->orig_rax;
    return registers->rip - 2;
  case RESTART_BLOCK:
    registers->rax = RESTART_SYSCALL;
    return registers->rip - 2;
  default:
    return registers->rip;
  }
}

/* Goes on to the next end of a system call of the stub's own; one made by a signal's handler is let pass. */
static long long next_result(pid_t pid, uint64_t after) {
  struct user_regs_struct registers;
  for (int calls = 0; calls < OTHER_STOPS_MAX; calls++) {
    const enum stop stop = run_to_stop(pid, PTRACE_SYSCALL);
    read_registers(pid, &registers);
    if (stop == SYSCALL_LEFT && registers.rip == after)
      return (long long)registers.rax;
  }
  give_up("signals", EAGAIN);
}

int open_userfaultfd_in(pid_t pid, int pidfd) {
  if (ptrace(PTRACE_SEIZE, pid, 0, PTRACE_O_TRACESYSGOOD) < 0)
    give_up("seize", errno);
  step_passed(1);
  // A filter might kill the process for a system call that it never makes itself.
  if (status_field(pid, "Seccomp:") > 0)
    give_up("seccomp", EPERM);
  if (ptrace(PTRACE_INTERRUPT, pid, 0, 0) < 0)
    give_up("interrupt", errno);
  step_passed(2);
  run_to_stop(pid, 0);
  step_passed(3);

  struct user_regs_struct before;
  read_registers(pid, &before);
  if (before.cs != USER_CODE_64)
    give_up("not-64-bit", ENOEXEC);
  struct user_regs_struct registers = before;
  const uint64_t home = way_home(&registers);

  const struct stub stub = stub_code();
  uint8_t code[STUB_MAX] = {0};
  const uint8_t zeros[STUB_MAX] = {0};
  memcpy(code, stub.code, stub.bytes);
  memcpy(code + stub.target_at, &home, sizeof home);
  uint64_t room = 0;
  for (int attempt = 0; room == 0 && attempt < ROOMS_MAX; attempt++) {
    const uint64_t found = find_room(pid, stub.bytes, attempt);
    if (found == 0)
      break;
    if (write_code(pid, found, code, stub.bytes))
      room = found;
  }
  if (room == 0)
    give_up("room", ENOMEM);
  step_passed(4);

  registers.rip = room;
  registers.orig_rax = (unsigned long long)-1; // the stub restarts the call itself, should we not come back
  if (ptrace(PTRACE_SETREGS, pid, 0, &registers) < 0)
    give_up("registers", errno);
  step_passed(5);

  const long long opened = next_result(pid, room + stub.opened_at);
  step_passed(6);
  int copy = -1, copy_error = 0;
  if (opened >= 0) {
    copy = (int)syscall(SYS_pidfd_getfd, pidfd, (int)opened, 0);
    copy_error = errno;
    step_passed(7);
    next_result(pid, room + stub.closed_at);
    step_passed(8);
  }

  // Stopped as at first, so that the kernel restarts the system call with the registers that it left.
  if (ptrace(PTRACE_INTERRUPT, pid, 0, 0) < 0)
    give_up("interrupt", errno);
  run_to_stop(pid, PTRACE_CONT);
  read_registers(pid, &registers);
  step_passed(9);
  if (registers.rip >= room && registers.rip < room + stub.bytes) {
    if (ptrace(PTRACE_SETREGS, pid, 0, &before) < 0)
      give_up("registers", errno);
    step_passed(10);
    write_code(pid, room, zeros, stub.bytes);
  } // else a signal's handler runs above the stub, which then ends by itself and needs its code
  step_passed(11);
  if (ptrace(PTRACE_DETACH, pid, 0, 0) < 0)
    give_up("detach", errno);
  step_passed(12);
  if (opened < 0)
    give_up("userfaultfd", (int)-opened);
  if (copy < 0)
    give_up("copy", copy_error);
  return copy;
}

#endif
