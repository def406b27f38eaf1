/*
 * The demo's guest: a process whose RAM moves while it writes.
 *
 * It stands in for a hypervisor. Its RAM is a shared memfd, its one vCPU is a
 * thread that sweeps a working set page by page, its device state is the place
 * that thread has reached. Every page's bytes follow from (seed, page, counter),
 * so one stale or foreign page anywhere is found by `check`.
 *
 *   ram.c       what each page holds, and whether it does
 *   vcpu.c      the writing thread, its pace, pause and resume
 *   state.c     where the vCPU stands, saved and loaded
 *   commands.c  what each command does, and its JSON answer
 *   control.c   the socket: lines in, lines out
 *   main.c      arguments, memory, lifetime
 */
#ifndef MULTIFD_GUEST_H
#define MULTIFD_GUEST_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define GUEST_PAGE_BYTES 4096u
#define GUEST_PAGE_WORDS (GUEST_PAGE_BYTES / 8)
/* Working-set pages lie in runs of this many, the runs spread over all RAM. */
#define GUEST_RUN_PAGES 64u
#define GUEST_RAM_MIN (1u << 20)
#define GUEST_RATE_MAX 50000000000u /* bytes per second; keeps the pace's products below 2^64 */
#define GUEST_DICTIONARY_WORDS 64u

/* ---- ram.c ---- */

struct guest_ram {
  uint8_t *bytes;
  uint64_t length;
  uint64_t working_pages; /* a multiple of GUEST_RUN_PAGES, at least one run */
  uint64_t stride;        /* runs lie this many run lengths apart */
  uint64_t seed;
  uint64_t dictionary[GUEST_DICTIONARY_WORDS]; /* what compressible pages are made of */
};

struct guest_verdict {
  uint64_t pages;
  uint64_t stale;     /* right bytes of an earlier sweep */
  uint64_t corrupt;   /* anything else */
  uint64_t first_bad; /* page index; meaningless when nothing is bad */
};

/* One round of a strong 64-bit mixer; never the identity. */
uint64_t guest_mix(uint64_t value);
/* Derives the layout. Returns false when the working set is no whole number of runs or does not fit. */
bool guest_ram_layout(struct guest_ram *ram, uint64_t working_pages, uint64_t seed);
/* Writes every page as it is before the first sweep (counter 0). The memory must read as zeros. */
void guest_ram_fill(struct guest_ram *ram);
/* Writes working-set page k as sweep `counter` leaves it. */
void guest_ram_write(struct guest_ram *ram, uint64_t k, uint64_t counter);
/* Compares every page with what it must hold when `sweep` has done pages [0, next) of the working set. */
struct guest_verdict guest_ram_check(const struct guest_ram *ram, uint64_t sweep, uint64_t next);

/* ---- vcpu.c ---- */

struct vcpu {
  struct guest_ram *ram;
  pthread_t thread;
  pthread_mutex_t lock;   /* held while a page is written: whoever holds it sees whole pages */
  pthread_cond_t changed; /* CLOCK_MONOTONIC */
  atomic_int callers;     /* threads that want the lock: the writer stands back for them */
  bool running;
  bool ending;
  bool rebase;             /* the pace starts over: after a pause, a new rate, too much debt */
  uint64_t rate;           /* bytes of RAM dirtied per second; 0 writes nothing */
  uint64_t sweep;          /* counter that this sweep writes; the first is 1 */
  uint64_t next;           /* working-set page that is written next */
  uint64_t written;        /* pages since the guest was born, across migrations */
  uint64_t paused_at;      /* ns, CLOCK_MONOTONIC */
  uint64_t first_write_at; /* ns, since the last start; 0 before it */
};

uint64_t monotonic_ns(void);
/* Creates the thread, standing still. Returns 0 or a positive errno. */
int vcpu_create(struct vcpu *vcpu, struct guest_ram *ram);
/* Stops the thread and waits for it. */
void vcpu_destroy(struct vcpu *vcpu);
/* Between these two nothing is written and the fields above may be read and set. */
void vcpu_hold(struct vcpu *vcpu);
void vcpu_release(struct vcpu *vcpu);
/* Under hold: lets the writer go on from (sweep, next), its pace starting over. */
void vcpu_start(struct vcpu *vcpu);
/* Under hold: stands still from now on; keeps the first time when already paused. */
void vcpu_pause(struct vcpu *vcpu);
/* Under hold: waits for the first write since the last start, one second at most. Returns its time, 0 for
 * none. */
uint64_t vcpu_first_write(struct vcpu *vcpu);

/* ---- state.c ---- */

struct guest {
  struct guest_ram ram;
  struct vcpu vcpu;
  int memfd;
  bool incoming;           /* started to take a migration in */
  bool loaded;             /* holds a guest: filled, or state loaded */
  bool ran;                /* has run here: its RAM is its own now */
  bool tracking;           /* registered for asynchronous write protection */
  char tracking_error[96]; /* why not */
};

struct saved_state {
  uint64_t magic, version, ram_bytes, working_pages, seed, rate, sweep, next, written, paused_at, check;
};
_Static_assert(sizeof(struct saved_state) == 88, "the saved state is eleven words");

/* Returns false, and no state worth keeping, while the guest runs. */
bool guest_save(struct guest *guest, struct saved_state *state);
/* Checks the state and takes it over. Returns what is wrong with it, or NULL. */
const char *guest_load(struct guest *guest, const struct saved_state *state);

/* ---- commands.c ---- */

/* What is to become of the connection, or of the guest. */
enum after { KEEP, DROP, QUIT };

/*
 * Does what a line asks for and answers it. Sets `raw_bytes` where so many bytes of a state follow it, for
 * `load_state`.
 */
enum after obey(struct guest *guest, int socket, const char *line, size_t *raw_bytes);
enum after load_state(struct guest *guest, int socket, const uint8_t *bytes);
enum after refuse(int socket, const char *why);

/* ---- control.c ---- */

/* Serves one connection after the other until `quit` or a signal on `signal_fd`. */
void control_serve(struct guest *guest, int listener, int signal_fd);

#endif
