/*
 * Zero scan: is a page of guest RAM all zeros?
 *
 * Most pages that are not zero show it in their first, middle or last words, so
 * three looks come first; only a page that passes them is read through, 256
 * bytes a step. The guest may write while we read: a page called zero just
 * before a write is dirty, and the next round sends it.
 */
#include "internal.h"

#include <stdatomic.h>
#include <string.h>

static inline uint64_t word(const uint8_t *at) {
  uint64_t value;
  memcpy(&value, at, sizeof value);
  return value;
}

static inline bool looks_zero(const uint8_t *page, size_t bytes) {
  return (word(page) | word(page + bytes / 2) | word(page + bytes - 8)) == 0;
}

static bool scan_scalar(const uint8_t *page, size_t bytes) {
  if (!looks_zero(page, bytes))
    return false;
  for (size_t i = 0; i < bytes; i += 64) {
    const uint8_t *p = page + i;
    if ((word(p) | word(p + 8) | word(p + 16) | word(p + 24) | word(p + 32) | word(p + 40) | word(p + 48) |
         word(p + 56)) != 0)
      return false;
  }
  return true;
}

#if defined(__x86_64__)
#include <immintrin.h>

__attribute__((target("avx2"))) static bool scan_avx2(const uint8_t *page, size_t bytes) {
  if (!looks_zero(page, bytes))
    return false;
  for (size_t i = 0; i < bytes; i += 256) {
    const __m256i *p = (const __m256i *)(page + i);
    const __m256i a = _mm256_or_si256(_mm256_loadu_si256(p), _mm256_loadu_si256(p + 1));
    const __m256i b = _mm256_or_si256(_mm256_loadu_si256(p + 2), _mm256_loadu_si256(p + 3));
    const __m256i c = _mm256_or_si256(_mm256_loadu_si256(p + 4), _mm256_loadu_si256(p + 5));
    const __m256i d = _mm256_or_si256(_mm256_loadu_si256(p + 6), _mm256_loadu_si256(p + 7));
    const __m256i all = _mm256_or_si256(_mm256_or_si256(a, b), _mm256_or_si256(c, d));
    if (!_mm256_testz_si256(all, all))
      return false;
  }
  return true;
}

__attribute__((target("avx512f"))) static bool scan_avx512(const uint8_t *page, size_t bytes) {
  if (!looks_zero(page, bytes))
    return false;
  for (size_t i = 0; i < bytes; i += 256) {
    const __m512i a = _mm512_or_si512(_mm512_loadu_si512(page + i), _mm512_loadu_si512(page + i + 64));
    const __m512i b = _mm512_or_si512(_mm512_loadu_si512(page + i + 128), _mm512_loadu_si512(page + i + 192));
    const __m512i all = _mm512_or_si512(a, b);
    if (_mm512_test_epi64_mask(all, all) != 0)
      return false;
  }
  return true;
}

static bool cpu_avx2(void) {
  return __builtin_cpu_supports("avx2");
}
static bool cpu_avx512(void) {
  return __builtin_cpu_supports("avx512f");
}
#else
#define scan_avx2 scan_scalar
#define scan_avx512 scan_scalar
static bool cpu_avx2(void) {
  return false;
}
static bool cpu_avx512(void) {
  return false;
}
#endif

static _Atomic int scan_level = 2;

bool mfd_cpu_has_avx2(void) {
  return atomic_load_explicit(&scan_level, memory_order_relaxed) >= 1 && cpu_avx2();
}

bool mfd_cpu_has_avx512(void) {
  return atomic_load_explicit(&scan_level, memory_order_relaxed) >= 2 && cpu_avx512();
}

mfd_zero_scan *mfd_zero_scan_get(void) {
  if (mfd_cpu_has_avx512())
    return scan_avx512;
  return mfd_cpu_has_avx2() ? scan_avx2 : scan_scalar;
}

int64_t mfd_scan_limit(int32_t level) {
  if (level < 0 || level > 2)
    return MFD_E_ARGUMENT;
  atomic_store_explicit(&scan_level, level, memory_order_relaxed);
  return 0;
}
