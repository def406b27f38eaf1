/*
 * What this build and machine offer, and what a thread has cost.
 */
#define _GNU_SOURCE
#include "internal.h"

#include <errno.h>
#include <time.h>

int64_t mfd_features(void) {
  int64_t bits = 1;
#ifdef MFD_HAVE_ISAL
  bits |= 1 << 1;
#endif
#ifdef MFD_HAVE_ZSTD
  bits |= 1 << 2;
#endif
#ifdef MFD_HAVE_LZ4
  bits |= 1 << 3;
#endif
  if (mfd_cpu_has_avx2())
    bits |= 1 << 8;
  if (mfd_cpu_has_avx512())
    bits |= 1 << 9;
  return bits;
}

int64_t mfd_thread_cpu_us(void) {
  struct timespec spent;
  if (clock_gettime(CLOCK_THREAD_CPUTIME_ID, &spent) < 0)
    return -errno;
  return (int64_t)spent.tv_sec * 1000000 + spent.tv_nsec / 1000;
}
