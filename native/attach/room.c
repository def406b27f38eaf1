/*
 * Room: bytes of a process's executable memory that nothing uses.
 *
 * The vDSO, and a library's code, are mapped in whole pages; what follows the
 * last instruction there is zeros to the page's end, which no one ever runs or
 * reads. Writing there copies that page for this process and changes no file.
 */
#include "attach.h"

#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define PAGE 4096u
/* Fewer zeros might be somebody's table. */
#define ZEROS_MIN 256u
#define ALIGNMENT 16u

/* Offset of `bytes` bytes at the end of the page's last run of ZEROS_MIN zeros; 0 for none. */
static size_t room_in(const uint8_t *page, size_t bytes) {
  for (size_t end = PAGE; end >= ZEROS_MIN; end--) {
    size_t begin = end;
    while (begin > 0 && page[begin - 1] == 0)
      begin--;
    if (end - begin >= ZEROS_MIN && end - begin >= bytes + ALIGNMENT)
      return (end - bytes) / ALIGNMENT * ALIGNMENT;
    if (begin < end)
      end = begin + 1;
  }
  return 0;
}

uint64_t find_room(pid_t pid, size_t bytes, int attempt) {
  char path[64], line[512];
  snprintf(path, sizeof path, "/proc/%d/mem", (int)pid);
  const int memory = open(path, O_RDONLY | O_CLOEXEC);
  if (memory < 0)
    return 0;
  uint64_t found = 0;
  // The vDSO first: every process has it, and it is nobody's file.
  for (int pass = 0; pass < 2 && found == 0; pass++) {
    snprintf(path, sizeof path, "/proc/%d/maps", (int)pid);
    FILE *const maps = fopen(path, "re");
    if (maps == NULL)
      break;
    while (found == 0 && fgets(line, sizeof line, maps) != NULL) {
      unsigned long long start, end;
      char rights[5];
      if (sscanf(line, "%llx-%llx %4s", &start, &end, rights) != 3 || strcmp(rights, "r-xp") != 0)
        continue;
      const bool vdso = strstr(line, "[vdso]") != NULL;
      uint8_t page[PAGE];
      if (vdso != (pass == 0) || end - start < PAGE ||
          pread(memory, page, sizeof page, (off_t)(end - PAGE)) != (ssize_t)sizeof page)
        continue;
      const size_t at = room_in(page, bytes);
      if (at != 0 && attempt-- == 0)
        found = end - PAGE + at;
    }
    fclose(maps);
  }
  close(memory);
  return found;
}
