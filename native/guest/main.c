/*
 * multifd-guest: arguments, memory, lifetime.
 *
 * A source guest fills its RAM, registers it once for asynchronous write
 * protection (only the owner of a mapping can) and runs; where the kernel
 * refuses it runs untracked and says so in `describe`. An incoming guest
 * leaves its RAM untouched for whoever receives into the memfd.
 *
 * With --private-run the incoming guest works on a private mapping: what
 * arrived stays in the memfd, byte for byte, while the guest goes on.
 *
 * Prints one line when the socket listens. Ends on `quit`, SIGTERM, SIGINT and
 * the death of the thread that started it (--exit-with-parent); removes the socket.
 */
#include "../include/multifd.h"
#include "guest.h"

#include <errno.h>
#include <getopt.h>
#include <linux/memfd.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define HUGE_PAGE_BYTES (2u << 20)
#define RUN_BYTES ((uint64_t)GUEST_RUN_PAGES * GUEST_PAGE_BYTES)

struct arguments {
  const char *socket;
  uint64_t ram_bytes, working_bytes, rate, seed;
  int incoming, private_run, huge, exit_with_parent;
};

static int fail(int code, const char *what, const char *why) {
  fprintf(stderr, "multifd-guest: %s: %s\n", what, why);
  return code;
}

static bool parse_number(const char *text, uint64_t max, uint64_t *number) {
  size_t digits = strspn(text, "0123456789");
  if (digits == 0 || digits > 18 || text[digits] != '\0')
    return false;
  *number = strtoull(text, NULL, 10);
  return *number <= max;
}

static int parse_arguments(int count, char **values, struct arguments *given) {
  const struct option options[] = {
      {"socket", required_argument, NULL, 's'},
      {"ram-bytes", required_argument, NULL, 'r'},
      {"rate", required_argument, NULL, 'R'},
      {"working-set", required_argument, NULL, 'w'},
      {"seed", required_argument, NULL, 'S'},
      {"incoming", no_argument, &given->incoming, 1},
      {"private-run", no_argument, &given->private_run, 1},
      {"huge", no_argument, &given->huge, 1},
      {"exit-with-parent", no_argument, &given->exit_with_parent, 1},
      {0},
  };
  for (int option; (option = getopt_long(count, values, "", options, NULL)) != -1;) {
    bool good = option != '?';
    if (option == 's')
      given->socket = optarg;
    if (option == 'r')
      good = parse_number(optarg, 1ull << 46, &given->ram_bytes);
    if (option == 'R')
      good = parse_number(optarg, GUEST_RATE_MAX, &given->rate);
    if (option == 'w')
      good = parse_number(optarg, 1ull << 46, &given->working_bytes);
    if (option == 'S')
      good = parse_number(optarg, UINT64_MAX, &given->seed);
    if (option == '?')
      return 2; // getopt has said it
    if (!good)
      return fail(2, optarg, "not a number in range");
  }
  if (optind != count)
    return fail(2, values[optind], "no such argument");
  if (given->socket == NULL)
    return fail(2, "--socket", "missing");
  uint64_t unit = given->huge ? HUGE_PAGE_BYTES : GUEST_PAGE_BYTES;
  if (given->ram_bytes < GUEST_RAM_MIN || given->ram_bytes % unit != 0)
    return fail(2, "--ram-bytes", "at least 1048576, and whole pages");
  if (given->working_bytes == 0)
    given->working_bytes = given->ram_bytes / 4;
  if (given->working_bytes > given->ram_bytes)
    return fail(2, "--working-set", "larger than the RAM");
  if (given->private_run && !given->incoming)
    return fail(2, "--private-run", "goes with --incoming");
  return 0;
}

/* Creates and maps the RAM. Returns a positive errno. */
static int create_ram(struct guest *guest, const struct arguments *given) {
  guest->memfd = memfd_create("guest.ram", MFD_CLOEXEC | (given->huge ? MFD_HUGETLB | MFD_HUGE_2MB : 0));
  if (guest->memfd < 0 || ftruncate(guest->memfd, (off_t)given->ram_bytes) < 0)
    return errno;
  int sharing = given->private_run ? MAP_PRIVATE : MAP_SHARED;
  void *at = mmap(NULL, given->ram_bytes, PROT_READ | PROT_WRITE, sharing, guest->memfd, 0);
  if (at == MAP_FAILED)
    return errno;
  guest->ram.bytes = at;
  guest->ram.length = given->ram_bytes;
  return 0;
}

static void register_tracking(struct guest *guest) {
  int64_t tracker = mfd_track_register((double)(uintptr_t)guest->ram.bytes, (double)guest->ram.length);
  guest->tracking = tracker >= 0; // the descriptor stays open as long as the process lives
  if (tracker < 0)
    snprintf(guest->tracking_error, sizeof guest->tracking_error, "userfaultfd write-protect-async: %s",
             tracker > -4096 ? strerror((int)-tracker) : "refused");
}

static int listen_at(const char *path) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  if (strlen(path) >= sizeof address.sun_path) {
    errno = ENAMETOOLONG;
    return -1;
  }
  strcpy(address.sun_path, path);
  int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (listener < 0)
    return -1;
  if (bind(listener, (struct sockaddr *)&address, sizeof address) < 0 || listen(listener, 4) < 0)
    return -1;
  return listener;
}

int main(int count, char **values) {
  static struct guest guest;
  struct arguments given = {.seed = 1};
  int usage = parse_arguments(count, values, &given);
  if (usage != 0)
    return usage;

  pid_t parent = getppid();
  if (given.exit_with_parent)
    prctl(PR_SET_PDEATHSIG, SIGTERM);
  if (given.exit_with_parent && getppid() != parent)
    return 1;
  sigset_t ending;
  sigemptyset(&ending);
  sigaddset(&ending, SIGTERM);
  sigaddset(&ending, SIGINT);
  pthread_sigmask(SIG_BLOCK, &ending, NULL);
  int signal_fd = signalfd(-1, &ending, SFD_CLOEXEC);

  int refused = create_ram(&guest, &given);
  if (refused != 0)
    return fail(1, "RAM", strerror(refused));
  guest.incoming = given.incoming;
  guest.vcpu.rate = given.rate;
  guest.vcpu.sweep = 1;
  if (given.incoming) {
    snprintf(guest.tracking_error, sizeof guest.tracking_error, "incoming: nothing to track yet");
  } else {
    uint64_t runs = given.working_bytes / RUN_BYTES;
    guest_ram_layout(&guest.ram, (runs == 0 ? 1 : runs) * GUEST_RUN_PAGES, given.seed);
    guest_ram_fill(&guest.ram);
    guest.loaded = true;
    register_tracking(&guest);
  }
  int error = vcpu_create(&guest.vcpu, &guest.ram);
  if (error != 0)
    return fail(1, "thread", strerror(error));
  int listener = listen_at(given.socket);
  if (listener < 0)
    return fail(1, given.socket, strerror(errno));

  if (!given.incoming) {
    vcpu_hold(&guest.vcpu);
    vcpu_start(&guest.vcpu);
    vcpu_release(&guest.vcpu);
  }
  printf("{\"event\":\"listening\",\"pid\":%d}\n", (int)getpid());
  fflush(stdout);
  control_serve(&guest, listener, signal_fd);
  unlink(given.socket);
  vcpu_destroy(&guest.vcpu);
  return 0;
}
