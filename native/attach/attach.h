/*
 * What the attach program's files share: where it is, what failed, and the traced thread.
 */
#ifndef MULTIFD_ATTACH_H
#define MULTIFD_ATTACH_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* ---- how the program ends early (report.c) ---- */

/*
 * A place where the program may die in a test build, which names it in MULTIFD_DIE_AT. Steps are numbered in
 * the order in which a successful attach passes them, from 1.
 */
#ifdef MFD_ATTACH_DYING
void step_passed(int step);
#else
#define step_passed(step) ((void)(step))
#endif

/* Ends the program: prints `WHAT ERRNO` for the caller, who knows what to advise. Does not return. */
_Noreturn void give_up(const char *what, int error);

/* The number after `name` in /proc/PID/status; -1 where there is none. */
long status_field(pid_t pid, const char *name);

/* ---- injection (inject.c) ---- */

/*
 * Lets the main thread of a process open a userfaultfd and close it again, and takes a copy in between.
 * Returns the copy; gives up otherwise, with the thread going on as if nothing had been.
 */
int open_userfaultfd_in(pid_t pid, int pidfd);

/* ---- room for the code (room.c) ---- */

/* Address of `bytes` unused bytes of executable memory of the process; 0 for none. `attempt` counts from 0.
 */
uint64_t find_room(pid_t pid, size_t bytes, int attempt);

/* ---- the code itself (stub.c) ---- */

struct stub {
  const uint8_t *code;
  size_t bytes;
  size_t opened_at; /* offset of the instruction after userfaultfd's system call */
  size_t closed_at; /* and after close's */
  size_t target_at; /* offset of the 8 bytes that say where the thread goes on */
};
struct stub stub_code(void);

#endif
