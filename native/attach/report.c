/*
 * Report: how the attach program ends early, and what /proc says of the process.
 *
 * Dying is safe at every step, so whoever cannot go on says why and ends the program.
 */
#include "attach.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifdef MFD_ATTACH_DYING
void step_passed(int step) {
  const char *const word = getenv("MULTIFD_DIE_AT");
  if (word != NULL && atoi(word) == step)
    raise(SIGKILL);
}
#endif

_Noreturn void give_up(const char *what, int error) {
  printf("%s %d\n", what, error);
  fflush(stdout);
  _exit(1);
}

long status_field(pid_t pid, const char *name) {
  char path[64], line[256];
  snprintf(path, sizeof path, "/proc/%d/status", (int)pid);
  FILE *const status = fopen(path, "re");
  if (status == NULL)
    return -1;
  long value = -1;
  while (value < 0 && fgets(line, sizeof line, status) != NULL)
    if (strncmp(line, name, strlen(name)) == 0)
      value = strtol(line + strlen(name), NULL, 10);
  fclose(status);
  return value;
}
