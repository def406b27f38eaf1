/*
 * What each page holds.
 *
 * A page's bytes follow from (seed, page index), and for the working set from
 * the sweep that wrote it last: check regenerates them and compares. About a
 * third of the pages are zero, the rest compressible or random, in runs of
 * sixteen, as page caches and heaps are. A working-set page carries
 * {k, counter, check word} at its head and a few words further down.
 */
#include "guest.h"

#include <string.h>

#define KIND_RUN_PAGES 16u
#define BODY_WORDS 7u /* words written beside the head, 64 words apart */

uint64_t guest_mix(uint64_t value) {
  value += 0x9e3779b97f4a7c15u;
  value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9u;
  value = (value ^ (value >> 27)) * 0x94d049bb133111ebu;
  return value ^ (value >> 31);
}

bool guest_ram_layout(struct guest_ram *ram, uint64_t working_pages, uint64_t seed) {
  uint64_t pages = ram->length / GUEST_PAGE_BYTES;
  if (working_pages == 0 || working_pages > pages || working_pages % GUEST_RUN_PAGES != 0)
    return false;
  ram->working_pages = working_pages;
  ram->stride = pages / working_pages;
  ram->seed = seed;
  for (uint32_t i = 0; i < GUEST_DICTIONARY_WORDS; i++)
    ram->dictionary[i] = guest_mix(seed ^ (0xd1c7u + i));
  return true;
}

static uint64_t page_of(const struct guest_ram *ram, uint64_t k) {
  return k / GUEST_RUN_PAGES * GUEST_RUN_PAGES * ram->stride + k % GUEST_RUN_PAGES;
}

/* The working-set number of a page, or UINT64_MAX. */
static uint64_t working_number(const struct guest_ram *ram, uint64_t page) {
  uint64_t run = page / GUEST_RUN_PAGES;
  if (run % ram->stride != 0)
    return UINT64_MAX;
  uint64_t k = run / ram->stride * GUEST_RUN_PAGES + page % GUEST_RUN_PAGES;
  return k < ram->working_pages ? k : UINT64_MAX;
}

/* What lies under the working set's words. Returns false for a page of zeros, and then writes nothing. */
static bool background(const struct guest_ram *ram, uint64_t page, uint64_t *words) {
  uint32_t kind = guest_mix(ram->seed ^ (page / KIND_RUN_PAGES * 3)) % 100;
  if (kind < 35)
    return false;
  uint64_t state = guest_mix(ram->seed ^ (page << 8));
  for (uint32_t i = 0; i < GUEST_PAGE_WORDS; i++) {
    uint64_t random = guest_mix(state + i);
    words[i] = kind >= 80 || i % 8 == 7 ? random : ram->dictionary[random % GUEST_DICTIONARY_WORDS];
  }
  return true;
}

static void put_working_words(const struct guest_ram *ram, uint64_t k, uint64_t counter, uint64_t *words) {
  uint64_t check = guest_mix(ram->seed ^ guest_mix(k ^ guest_mix(counter)));
  words[0] = k;
  words[1] = counter;
  words[2] = check;
  for (uint32_t i = 1; i <= BODY_WORDS; i++)
    words[i * 64] = check + i * counter;
}

void guest_ram_fill(struct guest_ram *ram) {
  uint64_t pages = ram->length / GUEST_PAGE_BYTES;
  for (uint64_t page = 0; page < pages; page++) {
    uint64_t *words = (uint64_t *)(void *)(ram->bytes + page * GUEST_PAGE_BYTES);
    background(ram, page, words);
    uint64_t k = working_number(ram, page);
    if (k != UINT64_MAX)
      put_working_words(ram, k, 0, words);
  }
}

void guest_ram_write(struct guest_ram *ram, uint64_t k, uint64_t counter) {
  uint8_t *page = ram->bytes + page_of(ram, k) * GUEST_PAGE_BYTES;
  put_working_words(ram, k, counter, (uint64_t *)(void *)page);
}

/* Whether the page holds what sweep `counter` left there. */
static bool holds(const struct guest_ram *ram, uint64_t page, uint64_t k, uint64_t counter) {
  uint64_t due[GUEST_PAGE_WORDS];
  if (!background(ram, page, due))
    memset(due, 0, sizeof due);
  if (k != UINT64_MAX)
    put_working_words(ram, k, counter, due);
  return memcmp(ram->bytes + page * GUEST_PAGE_BYTES, due, sizeof due) == 0;
}

struct guest_verdict guest_ram_check(const struct guest_ram *ram, uint64_t sweep, uint64_t next) {
  struct guest_verdict verdict = {.pages = ram->length / GUEST_PAGE_BYTES};
  for (uint64_t page = 0; page < verdict.pages; page++) {
    uint64_t k = working_number(ram, page);
    uint64_t counter = k < next ? sweep : sweep - 1;
    if (holds(ram, page, k, counter))
      continue;
    if (verdict.stale + verdict.corrupt == 0)
      verdict.first_bad = page;
    uint64_t found;
    memcpy(&found, ram->bytes + page * GUEST_PAGE_BYTES + 8, sizeof found);
    if (k != UINT64_MAX && found < counter && holds(ram, page, k, found))
      verdict.stale++;
    else
      verdict.corrupt++;
  }
  return verdict;
}
