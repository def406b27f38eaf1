/*
 * The writing thread, the guest's one vCPU.
 *
 * Invariant, whenever the lock is free: working-set page k was written last by
 * sweep `sweep` if k < next, by the sweep before otherwise. Pages are written
 * under the lock, some hundred at a time, so a holder never sees half a page
 * and a pause ends on a page boundary by itself.
 *
 * The pace is kept against CLOCK_MONOTONIC in slices of a millisecond. A debt
 * of more than a tenth of a second is forgotten: a guest held up by its host
 * does not catch up in one burst.
 */
#include "guest.h"

#include <errno.h>
#include <time.h>

#define SLICE_NS 1000000u
#define DEBT_NS 100000000u
#define SECOND_NS 1000000000u
#define PAGES_PER_HOLD 256u
#define PAGE_CREDIT ((uint64_t)GUEST_PAGE_BYTES * SECOND_NS)

uint64_t monotonic_ns(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint64_t)now.tv_sec * SECOND_NS + (uint64_t)now.tv_nsec;
}

static struct timespec at_ns(uint64_t ns) {
  return (struct timespec){.tv_sec = (time_t)(ns / SECOND_NS), .tv_nsec = (long)(ns % SECOND_NS)};
}

static void write_pages(struct vcpu *vcpu, uint64_t pages) {
  for (uint64_t i = 0; i < pages; i++) {
    guest_ram_write(vcpu->ram, vcpu->next, vcpu->sweep);
    if (++vcpu->next == vcpu->ram->working_pages) {
      vcpu->next = 0;
      vcpu->sweep++;
    }
  }
  vcpu->written += pages;
  if (vcpu->first_write_at == 0) {
    vcpu->first_write_at = monotonic_ns();
    pthread_cond_broadcast(&vcpu->changed);
  }
}

static void *sweep_working_set(void *argument) {
  struct vcpu *vcpu = argument;
  uint64_t last = 0, credit = 0; // credit counts bytes times nanoseconds per second: no remainder is lost
  pthread_mutex_lock(&vcpu->lock);
  while (!vcpu->ending) {
    if (!vcpu->running || vcpu->rate == 0 || atomic_load(&vcpu->callers) > 0) {
      pthread_cond_wait(&vcpu->changed, &vcpu->lock);
      continue;
    }
    uint64_t now = monotonic_ns();
    uint64_t elapsed = now - last < DEBT_NS ? now - last : DEBT_NS;
    credit += elapsed * vcpu->rate; // below 2^64: GUEST_RATE_MAX
    if (credit > DEBT_NS * vcpu->rate)
      credit = DEBT_NS * vcpu->rate;
    if (vcpu->rebase)
      credit = PAGE_CREDIT; // the first page at once
    vcpu->rebase = false;
    last = now;
    uint64_t pages = credit / PAGE_CREDIT;
    if (pages > 0) {
      if (pages > PAGES_PER_HOLD)
        pages = PAGES_PER_HOLD;
      write_pages(vcpu, pages);
      credit -= pages * PAGE_CREDIT;
    } else {
      struct timespec until = at_ns(now + SLICE_NS);
      pthread_cond_timedwait(&vcpu->changed, &vcpu->lock, &until);
    }
  }
  pthread_mutex_unlock(&vcpu->lock);
  return NULL;
}

int vcpu_create(struct vcpu *vcpu, struct guest_ram *ram) {
  vcpu->ram = ram;
  pthread_condattr_t monotonic;
  pthread_condattr_init(&monotonic);
  pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
  pthread_cond_init(&vcpu->changed, &monotonic);
  pthread_condattr_destroy(&monotonic);
  pthread_mutex_init(&vcpu->lock, NULL);
  return pthread_create(&vcpu->thread, NULL, sweep_working_set, vcpu);
}

void vcpu_destroy(struct vcpu *vcpu) {
  vcpu_hold(vcpu);
  vcpu->ending = true;
  vcpu_release(vcpu);
  pthread_join(vcpu->thread, NULL);
  pthread_cond_destroy(&vcpu->changed);
  pthread_mutex_destroy(&vcpu->lock);
}

void vcpu_hold(struct vcpu *vcpu) {
  // A mutex is not fair: without the count the writer would take it again before we wake.
  atomic_fetch_add(&vcpu->callers, 1);
  pthread_mutex_lock(&vcpu->lock);
  atomic_fetch_sub(&vcpu->callers, 1);
}

void vcpu_release(struct vcpu *vcpu) {
  pthread_cond_broadcast(&vcpu->changed);
  pthread_mutex_unlock(&vcpu->lock);
}

void vcpu_start(struct vcpu *vcpu) {
  vcpu->running = true;
  vcpu->rebase = true;
  vcpu->first_write_at = 0;
}

void vcpu_pause(struct vcpu *vcpu) {
  if (vcpu->running)
    vcpu->paused_at = monotonic_ns();
  vcpu->running = false;
}

uint64_t vcpu_first_write(struct vcpu *vcpu) {
  struct timespec until = at_ns(monotonic_ns() + SECOND_NS);
  pthread_cond_broadcast(&vcpu->changed);
  while (vcpu->first_write_at == 0) {
    if (pthread_cond_timedwait(&vcpu->changed, &vcpu->lock, &until) == ETIMEDOUT)
      break;
  }
  return vcpu->first_write_at;
}
