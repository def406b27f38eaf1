/*
 * Preload library: a process's shared RAM, registered for write tracking as it is mapped.
 *
 *   LD_PRELOAD=…/multifd-track.so MULTIFD_TRACK=/dev/shm/vm.ram qemu-system-x86_64 …
 *
 * For a process that nobody may attach to later: one under a seccomp filter, or
 * where ptrace is forbidden. The userfaultfd is opened before main(), so before any
 * filter, and stays open in the process: whoever tracks it takes a copy
 * (multifd-attach PID TIMEOUT_MS FD) or, where even that is forbidden, only harvests.
 * Until somebody harvests, a registered mapping costs nothing.
 *
 * MULTIFD_TRACK names what to register, with colons in between: a file's path, a
 * directory of files, or a memfd's name. Without it the library does nothing at
 * all. What fails is told on stderr, and the process goes on untracked.
 *
 * Only mmap passes through here, as a plain system call, since libc's own
 * functions may not be there yet when the first one comes.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/userfaultfd.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define API __attribute__((visibility("default")))
/* UFFD_FEATURE_WP_HUGETLBFS_SHMEM, WP_UNPOPULATED and WP_ASYNC: ../src/dirty-track.c */
#define FEATURES ((UINT64_C(1) << 12) | (UINT64_C(1) << 13) | (UINT64_C(1) << 15))

static const char *wanted;
static int tracker = -1;
/* A process that forks itself into the background has new memory, which the old descriptor does not watch. */
static pid_t opened_by;

static void complain(const char *what) {
  char text[256];
  const int length =
      snprintf(text, sizeof text, "multifd-track: %s: %s; writes are not tracked\n", what, strerror(errno));
  if (write(STDERR_FILENO, text, length < (int)sizeof text ? (size_t)length : sizeof text - 1) < 0)
    return; // nobody to tell
}

static void open_tracker(void) {
  opened_by = getpid();
  tracker = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);
  if (tracker < 0) {
    complain("userfaultfd");
    return;
  }
  struct uffdio_api api = {.api = UFFD_API, .features = FEATURES};
  if (ioctl(tracker, UFFDIO_API, &api) == 0)
    return;
  complain("userfaultfd's write-protect-async (Linux 6.7)");
  close(tracker);
  tracker = -1;
}

__attribute__((constructor)) static void begin(void) {
  wanted = getenv("MULTIFD_TRACK");
  if (wanted != NULL && *wanted == '\0')
    wanted = NULL;
  if (wanted != NULL)
    open_tracker();
}

/* Whether `name` is what one of the words asks for: the file itself, one in that directory, or a memfd. */
static bool is_wanted(const char *name) {
  for (const char *word = wanted; *word != '\0';) {
    const size_t bytes = strcspn(word, ":");
    const char *const end = name + strlen(name);
    if (bytes > 0 && strncmp(name, "/memfd:", 7) == 0) {
      if (strncmp(name + 7, word, bytes) == 0 && strcmp(name + 7 + bytes, " (deleted)") == 0)
        return true;
    } else if (bytes > 0 && (size_t)(end - name) >= bytes && strncmp(name, word, bytes) == 0) {
      const char next = name[bytes];
      if (next == '\0' || next == '/' || word[bytes - 1] == '/' || strcmp(name + bytes, " (deleted)") == 0)
        return true;
    }
    word += bytes;
    word += *word == ':';
  }
  return false;
}

static void track(void *address, size_t bytes, int fd) {
  char link[64], name[PATH_MAX];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  const ssize_t length = readlink(link, name, sizeof name - 1);
  if (length < 0)
    return;
  name[length] = '\0';
  if (!is_wanted(name))
    return;
  if (opened_by != getpid()) {
    if (tracker >= 0)
      close(tracker);
    open_tracker();
  }
  if (tracker < 0)
    return;
  struct uffdio_register range = {.range = {.start = (uintptr_t)address, .len = bytes},
                                  .mode = UFFDIO_REGISTER_MODE_WP};
  if (ioctl(tracker, UFFDIO_REGISTER, &range) < 0)
    complain(name);
}

API void *mmap(void *address, size_t bytes, int protection, int flags, int fd, off_t offset) {
  void *const at = (void *)syscall(SYS_mmap, address, bytes, protection, flags, fd, offset);
  const int type = flags & MAP_TYPE;
  if (wanted != NULL && at != MAP_FAILED && fd >= 0 && (protection & PROT_WRITE) != 0 &&
      (type == MAP_SHARED || type == MAP_SHARED_VALIDATE)) {
    const int error = errno;
    track(at, bytes, fd);
    errno = error;
  }
  return at;
}

API void *mmap64(void *address, size_t bytes, int protection, int flags, int fd, off_t offset)
    __attribute__((alias("mmap")));
