/*
 * Noise: pages of encrypted or compressed data, which no codec makes smaller.
 *
 * A codec without a quick way past them spends as much on them as on others, at both
 * ends. They are told by how many different values a few of their bytes have: of 64
 * random ones 57 on average, of text or a program's code hardly 40. What passes that is asked
 * again for 256. The first look walks through all places in a word, so that numbers
 * with random low bytes do not pass; the second goes by a power of two, and meets what repeats
 * itself within a page over and over.
 *
 * An error costs a few bytes on the wire or some time, nothing else: bench/src/codec-cost.ts.
 */
#include "internal.h"

#include <string.h>

#define FIRST_BYTES 64
#define FIRST_VALUES 50 /* of random bytes: 56.7, three deviations of 2.3 more */
#define SECOND_BYTES 256
#define SECOND_VALUES 146 /* 161.9, three of 5 more */

static uint32_t count_values(const uint8_t *at, size_t stride, size_t count) {
  uint8_t seen[256] = {0};
  for (size_t i = 0; i < count; i++)
    seen[at[i * stride]] = 1;
  uint32_t values = 0;
  for (size_t i = 0; i < sizeof seen; i++)
    values += seen[i];
  return values;
}

bool mfd_is_noise(const uint8_t *page, size_t bytes) {
  const size_t odd = bytes / FIRST_BYTES - 1, even = bytes / SECOND_BYTES;
  return count_values(page, odd, FIRST_BYTES) >= FIRST_VALUES &&
         count_values(page + even / 2, even, SECOND_BYTES) >= SECOND_VALUES;
}
