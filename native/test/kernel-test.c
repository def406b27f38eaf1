/*
 * Kernel test: drives every entry point of multifd.h under the address and undefined-behaviour sanitizers.
 *
 * What it looks for is memory: reads past a mapping, leaks of contexts and
 * descriptors, lengths that wrap. What the calls mean is tested from TypeScript.
 * It prints nothing and returns 0 when all is well; the first failure is named
 * by its line.
 */
#define _GNU_SOURCE
#include "multifd.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE 4096u
#define PAGES 256u
#define BLOCK_BYTES (PAGE * PAGES)

#define CHECK(condition)                                                                                     \
  do {                                                                                                       \
    if (!(condition)) {                                                                                      \
      fprintf(stderr, "%s:%d: not so: %s (errno %s)\n", __FILE__, __LINE__, #condition, strerror(errno));    \
      exit(1);                                                                                               \
    }                                                                                                        \
  } while (0)

static uint32_t seed = 12345;
static uint32_t random_word(void) {
  seed ^= seed << 13;
  seed ^= seed >> 17;
  seed ^= seed << 5;
  return seed;
}

/* A RAM block: the file, its mapping, and what it should hold. */
struct block {
  int fd;
  uint8_t *at;
  int fresh; /* and the mapping that it makes pages in, which nobody else may touch */
  uint8_t *fresh_at;
};

static struct block make_block(void) {
  const int64_t fd = mfd_memfd("kernel-test", BLOCK_BYTES, 0);
  CHECK(fd >= 0);
  const int64_t at = mfd_map((int32_t)fd, 0, BLOCK_BYTES, 1);
  CHECK(at > 0);
  const int64_t fresh_at = mfd_map((int32_t)fd, 0, BLOCK_BYTES, 1);
  CHECK(fresh_at > 0);
  const int64_t fresh = mfd_fresh_register((double)fresh_at, BLOCK_BYTES);
  CHECK(fresh >= 0);
  return (struct block){(int)fd, (uint8_t *)(uintptr_t)at, (int)fresh, (uint8_t *)(uintptr_t)fresh_at};
}

static void test_locks(void) {
  const int64_t one = mfd_memfd("kernel-test", PAGE, 0);
  CHECK(one >= 0);
  char path[64];
  snprintf(path, sizeof path, "/proc/self/fd/%d", (int)one);
  const int other = open(path, O_RDONLY | O_CLOEXEC);
  CHECK(other >= 0);
  CHECK(mfd_lock_file((int32_t)one, 1) == 0 && mfd_lock_file(other, 1) == -EWOULDBLOCK);
  CHECK(mfd_lock_file((int32_t)one, 0) == 0 && mfd_lock_file(other, 1) == 0);
  CHECK(mfd_lock_file(-1, 1) == -EBADF);
  CHECK(close(other) == 0 && mfd_close((int32_t)one) == 0);
}

static void drop_block(struct block block) {
  CHECK(mfd_unmap((double)(uintptr_t)block.at, BLOCK_BYTES) == 0);
  CHECK(mfd_close(block.fresh) == 0);
  CHECK(mfd_unmap((double)(uintptr_t)block.fresh_at, BLOCK_BYTES) == 0);
  CHECK(mfd_close(block.fd) == 0);
}

/* A third zeros, a third repetitive, a third noise. */
static void fill_block(struct block block) {
  memset(block.at, 0, BLOCK_BYTES);
  for (uint32_t page = 0; page < PAGES; page++)
    for (uint32_t i = 0; i < PAGE; i++)
      if (page % 3 != 0)
        block.at[page * PAGE + i] = page % 3 == 1 ? (uint8_t)(i / 7 + page) : (uint8_t)random_word();
}

/* How pages get into a block; a sender always reads its file. */
enum through { MAPPING, FILE_WRITES, FRESH_PAGES };

static struct mfd_packet *make_packet(struct block block, int socket, enum through through) {
  struct mfd_packet *const packet = calloc(1, sizeof *packet);
  CHECK(packet != NULL);
  packet->address = through == MAPPING ? (uintptr_t)block.at : (uintptr_t)block.fresh_at;
  packet->length = BLOCK_BYTES;
  packet->file = through == MAPPING ? -1 : block.fd;
  packet->fresh = through == FRESH_PAGES ? block.fresh : -1;
  packet->socket = socket;
  packet->page_bytes = PAGE;
  packet->header_bytes = 1344;
  return packet;
}

struct reader {
  struct mfd_packet *packet;
  int64_t result;
};

static void *receive_in_thread(void *argument) {
  struct reader *const reader = argument;
  reader->result = mfd_receive_pages(reader->packet);
  return NULL;
}

/* Sends the whole block in packets of `step` pages, listed in an order of `stride`, and compares. */
static void move_block(int32_t method, int32_t level, enum through through, uint32_t step, uint32_t stride) {
  const struct block source = make_block(), destination = make_block();
  fill_block(source);
  int32_t sockets[2];
  CHECK(mfd_socketpair(sockets) == 0);
  struct mfd_packet *const out = make_packet(source, sockets[0], FILE_WRITES);
  struct mfd_packet *const in = make_packet(destination, sockets[1], through);
  if (method != 0) {
    out->codec = (uint32_t)mfd_compressor_create(method, level);
    in->codec = (uint32_t)mfd_decompressor_create(method);
    CHECK((int32_t)out->codec > 0 && (int32_t)in->codec > 0);
  }
  for (uint32_t first = 0; first < PAGES; first += step) {
    for (uint32_t i = 0; i < step; i++)
      out->pages[i] = (first + i) * stride % PAGES;
    out->normal_pages = step;
    out->zero_pages = 0;
    CHECK(mfd_prepare(out, 1) == out->payload_bytes);
    CHECK(out->normal_pages + out->zero_pages == step);
    // The header goes first and alone here; the payload is received while it is being sent.
    memcpy(in->pages, out->pages, sizeof out->pages);
    in->normal_pages = out->normal_pages;
    in->payload_bytes = out->payload_bytes;
    out->header_bytes = 0;
    struct reader reader = {in, 0};
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, receive_in_thread, &reader) == 0);
    CHECK(mfd_send(out) == out->payload_bytes);
    CHECK(pthread_join(thread, NULL) == 0);
    CHECK(reader.result == in->payload_bytes);
  }
  CHECK(memcmp(source.at, destination.at, BLOCK_BYTES) == 0);
  if (method != 0) {
    CHECK(mfd_codec_free((int32_t)out->codec) == 0);
    CHECK(mfd_codec_free((int32_t)in->codec) == 0);
    CHECK(mfd_codec_free((int32_t)in->codec) == MFD_E_ARGUMENT);
  }
  mfd_close(sockets[0]);
  mfd_close(sockets[1]);
  free(out);
  free(in);
  drop_block(source);
  drop_block(destination);
}

static void test_moving(void) {
  for (enum through through = MAPPING; through <= FRESH_PAGES; through++) {
    move_block(0, 0, through, 128, 1);
    move_block(0, 0, through, 16, 3); // no two neighbours
    const int32_t zlib_levels[] = {0, 1, 2, 3, 4, 9};
    for (size_t i = 0; i < sizeof zlib_levels / sizeof zlib_levels[0]; i++)
      move_block(MFD_CODEC_ZLIB, zlib_levels[i], through, 64, 5);
    if (mfd_features() & 4) {
      move_block(MFD_CODEC_ZSTD, 0, through, 128, 1);
      move_block(MFD_CODEC_ZSTD, 1, through, 32, 7);
      move_block(MFD_CODEC_ZSTD, -5, through, 128, 1);
      move_block(MFD_CODEC_ZSTD, MFD_ZSTD_STORE, through, 128, 3);
    }
    if (mfd_features() & 8)
      move_block(MFD_CODEC_LZ4, 1, through, 128, 1);
  }
}

/* Ranges of odd sizes and places, there and back; then those that must be refused. */
static void test_ranges(void) {
  struct mfd_ranges *const work = calloc(1, sizeof *work);
  CHECK(work != NULL);
  for (enum through through = MAPPING; through <= FRESH_PAGES; through++) {
    const struct block source = make_block(), destination = make_block();
    fill_block(source);
    int32_t sockets[2];
    CHECK(mfd_socketpair(sockets) == 0);
    double total = 0;
    for (uint32_t i = 0; i < MFD_RANGES_MAX; i++) {
      const double offset = (double)(i * 1021 % (BLOCK_BYTES - 128)), bytes = (double)(i % 128);
      work->ranges[i] = (struct mfd_range){
          .length = BLOCK_BYTES, .offset = offset, .bytes = bytes, .file = source.fd, .fresh = -1};
      total += bytes;
    }
    work->count = MFD_RANGES_MAX;
    work->socket = sockets[0];
    CHECK(mfd_send_ranges(work) == (int64_t)total); // 64 KiB: the socket holds them
    for (uint32_t i = 0; i < MFD_RANGES_MAX; i++) {
      struct mfd_range *const range = &work->ranges[i];
      range->address = (double)(uintptr_t)(through == MAPPING ? destination.at : destination.fresh_at);
      range->file = through == MAPPING ? -1 : destination.fd;
      range->fresh = through == FRESH_PAGES ? destination.fresh : -1;
    }
    work->socket = sockets[1];
    CHECK(mfd_receive_ranges(work) == (int64_t)total);
    for (uint32_t i = 0; i < MFD_RANGES_MAX; i++) {
      const size_t offset = (size_t)work->ranges[i].offset, bytes = (size_t)work->ranges[i].bytes;
      CHECK(memcmp(source.at + offset, destination.at + offset, bytes) == 0);
    }
    mfd_close(sockets[0]);
    mfd_close(sockets[1]);
    drop_block(source);
    drop_block(destination);
  }
  const struct block block = make_block();
  const struct mfd_range good = {.length = BLOCK_BYTES, .bytes = 1, .file = block.fd, .fresh = -1};
  const struct mfd_range bad[] = {
      {.length = BLOCK_BYTES, .offset = BLOCK_BYTES, .bytes = 1, .file = block.fd, .fresh = -1},
      {.length = BLOCK_BYTES, .bytes = BLOCK_BYTES + 1, .file = block.fd, .fresh = -1},
      {.length = BLOCK_BYTES, .offset = 1e15, .bytes = 9e15, .file = block.fd, .fresh = -1},
      {.length = BLOCK_BYTES, .offset = -1, .bytes = 1, .file = block.fd, .fresh = -1},
      {.length = BLOCK_BYTES, .offset = NAN, .bytes = 1, .file = block.fd, .fresh = -1},
      {.length = INFINITY, .bytes = 1, .file = block.fd, .fresh = -1},
      {.length = BLOCK_BYTES, .bytes = 1, .file = -1, .fresh = -1}};
  work->socket = -1;
  for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
    work->count = 2;
    work->ranges[0] = good;
    work->ranges[1] = bad[i];
    CHECK(mfd_send_ranges(work) <= MFD_E_OUTSIDE && mfd_send_ranges(work) >= MFD_E_ARGUMENT);
    CHECK(mfd_receive_ranges(work) <= MFD_E_OUTSIDE && mfd_receive_ranges(work) >= MFD_E_ARGUMENT);
  }
  work->count = MFD_RANGES_MAX + 1;
  CHECK(mfd_send_ranges(work) == MFD_E_ARGUMENT && mfd_receive_ranges(work) == MFD_E_ARGUMENT);
  CHECK(mfd_send_ranges(NULL) == MFD_E_ARGUMENT && mfd_receive_ranges(NULL) == MFD_E_ARGUMENT);
  work->count = 0;
  CHECK(mfd_send_ranges(work) == 0 && mfd_receive_ranges(work) == 0);
  free(work);
  drop_block(block);
}

static void test_many_iovecs(void) {
  // 1024 scattered pages of 512 bytes: with the header one iovec more than a sendmsg takes.
  const struct block source = make_block(), destination = make_block();
  fill_block(source);
  int32_t sockets[2];
  CHECK(mfd_socketpair(sockets) == 0);
  struct mfd_packet *const out = make_packet(source, sockets[0], FILE_WRITES);
  struct mfd_packet *const in = make_packet(destination, sockets[1], MAPPING);
  out->page_bytes = in->page_bytes = 512;
  out->normal_pages = in->normal_pages = MFD_PAGES_MAX;
  for (uint32_t i = 0; i < MFD_PAGES_MAX; i++)
    out->pages[i] = in->pages[i] = i * 2;
  out->payload_bytes = in->payload_bytes = MFD_PAGES_MAX * 512;
  out->header_bytes = 0;
  struct reader reader = {in, 0};
  pthread_t thread;
  CHECK(pthread_create(&thread, NULL, receive_in_thread, &reader) == 0);
  CHECK(mfd_prepare(out, 0) == MFD_PAGES_MAX * 512);
  CHECK(mfd_send(out) == MFD_PAGES_MAX * 512);
  CHECK(pthread_join(thread, NULL) == 0);
  CHECK(reader.result == MFD_PAGES_MAX * 512);
  for (uint32_t i = 0; i < MFD_PAGES_MAX; i++)
    CHECK(memcmp(source.at + i * 1024, destination.at + i * 1024, 512) == 0);
  mfd_close(sockets[0]);
  mfd_close(sockets[1]);
  free(out);
  free(in);
  drop_block(source);
  drop_block(destination);
}

static void test_zero_scan(void) {
  const struct block block = make_block();
  struct mfd_packet *const packet = make_packet(block, -1, FILE_WRITES);
  for (int level = 0; level <= 2; level++) {
    CHECK(mfd_scan_limit(level) == 0);
    // One byte set, at every offset of the smallest page.
    packet->page_bytes = 512;
    for (uint32_t at = 0; at < 512; at++) {
      block.at[512 + at] = 1;
      for (uint32_t i = 0; i < 3; i++)
        packet->pages[i] = i;
      packet->normal_pages = 3;
      packet->zero_pages = 0;
      CHECK(mfd_prepare(packet, 1) == 512);
      CHECK(packet->normal_pages == 1 && packet->zero_pages == 2);
      CHECK(packet->pages[0] == 1 && packet->pages[1] == 0 && packet->pages[2] == 2);
      block.at[512 + at] = 0;
    }
  }
  CHECK(mfd_scan_limit(3) == MFD_E_ARGUMENT && mfd_scan_limit(-1) == MFD_E_ARGUMENT);
  // The last page of a block: there is nothing behind it to read.
  packet->page_bytes = 65536;
  packet->pages[0] = BLOCK_BYTES / 65536 - 1;
  packet->normal_pages = 1;
  packet->zero_pages = 0;
  CHECK(mfd_prepare(packet, 1) == 0 && packet->zero_pages == 1);
  CHECK(mfd_prepare(packet, 0) == 65536 && packet->normal_pages == 1);
  free(packet);
  drop_block(block);
}

static int64_t prepare(struct mfd_packet *packet) {
  return mfd_prepare(packet, 0);
}

static void test_packet_refusals(void) {
  const struct block block = make_block();
  struct mfd_packet *const packet = make_packet(block, -1, MAPPING);
  int64_t (*const by_normal[])(struct mfd_packet *) = {prepare, mfd_receive_pages, mfd_place_pages};
  for (int i = 0; i < 3; i++) {
    packet->file = i == 0 ? block.fd : -1;
    CHECK(by_normal[i](NULL) == MFD_E_ARGUMENT);
    packet->normal_pages = 1;
    packet->payload_bytes = PAGE;
    packet->pages[0] = PAGES;
    CHECK(by_normal[i](packet) == MFD_E_OUTSIDE);
    packet->pages[0] = UINT32_MAX;
    CHECK(by_normal[i](packet) == MFD_E_OUTSIDE);
    packet->pages[0] = 0;
    packet->normal_pages = MFD_PAGES_MAX + 1;
    CHECK(by_normal[i](packet) == MFD_E_ARGUMENT);
    packet->normal_pages = UINT32_MAX;
    CHECK(by_normal[i](packet) == MFD_E_ARGUMENT);
    packet->normal_pages = 1;
    const uint32_t sizes[] = {0, 1, 256, 4095, 131072, UINT32_MAX};
    for (size_t size = 0; size < sizeof sizes / sizeof sizes[0]; size++) {
      packet->page_bytes = sizes[size];
      CHECK(by_normal[i](packet) == MFD_E_ARGUMENT);
    }
    packet->page_bytes = PAGE;
    packet->address = UINT64_MAX - PAGE;
    CHECK(by_normal[i](packet) == MFD_E_ARGUMENT);
    packet->address = 0;
    packet->file = -1;
    CHECK(by_normal[i](packet) == MFD_E_ARGUMENT);
    packet->address = (uintptr_t)block.at;
  }
  packet->payload_bytes = PAGE - 1;
  CHECK(mfd_receive_pages(packet) == MFD_E_SHORT);
  packet->payload_bytes = PAGE + 1;
  CHECK(mfd_receive_pages(packet) == MFD_E_LONG);
  CHECK(mfd_place_pages(packet) == MFD_E_ARGUMENT);
  CHECK(mfd_send(NULL) == MFD_E_ARGUMENT);
  packet->payload_bytes = MFD_PACKET_BYTES + 1;
  CHECK(mfd_send(packet) == MFD_E_ARGUMENT);
  packet->codec = 77;
  packet->payload_bytes = MFD_PAYLOAD_MAX + 1;
  CHECK(mfd_send(packet) == MFD_E_ARGUMENT);
  packet->payload_bytes = PAGE;
  packet->file = block.fd;
  CHECK(mfd_prepare(packet, 1) == MFD_E_ARGUMENT);
  CHECK(mfd_receive_pages(packet) == MFD_E_ARGUMENT);
  packet->codec = UINT32_MAX;
  CHECK(mfd_receive_pages(packet) == MFD_E_ARGUMENT);
  // A compressor does not receive, and a decompressor does not send.
  packet->codec = (uint32_t)mfd_compressor_create(MFD_CODEC_ZLIB, 1);
  CHECK(mfd_receive_pages(packet) == MFD_E_ARGUMENT);
  CHECK(mfd_codec_free((int32_t)packet->codec) == 0);
  packet->codec = (uint32_t)mfd_decompressor_create(MFD_CODEC_ZLIB);
  CHECK(mfd_prepare(packet, 1) == MFD_E_ARGUMENT);
  packet->payload_bytes = MFD_PAYLOAD_MAX + 1;
  CHECK(mfd_receive_pages(packet) == MFD_E_ARGUMENT);
  packet->payload_bytes = 0;
  CHECK(mfd_receive_pages(packet) == MFD_E_SHORT);
  packet->normal_pages = 129; // 516 KiB: more than the scratch holds
  packet->payload_bytes = 100;
  CHECK(mfd_receive_pages(packet) == MFD_E_ARGUMENT);
  CHECK(mfd_codec_free((int32_t)packet->codec) == 0);
  packet->codec = 0;

  packet->zero_pages = 2;
  packet->pages[0] = 1;
  packet->pages[1] = PAGES;
  block.at[PAGE] = 7;
  CHECK(mfd_clear_pages(packet) == MFD_E_OUTSIDE && block.at[PAGE] == 7);
  packet->normal_pages = UINT32_MAX;
  CHECK(mfd_prepare(packet, 1) == MFD_E_ARGUMENT);
  packet->header_bytes = MFD_HEADER_MAX + 1;
  CHECK(mfd_send(packet) == MFD_E_ARGUMENT && mfd_receive_header(packet) == MFD_E_ARGUMENT);
  packet->header_bytes = 100;
  packet->short_header_bytes = 101;
  CHECK(mfd_receive_header(packet) == MFD_E_ARGUMENT);
  packet->short_header_bytes = 12;
  packet->short_flag_at = 9;
  CHECK(mfd_receive_header(packet) == MFD_E_ARGUMENT);
  packet->short_flag_at = UINT32_MAX;
  CHECK(mfd_receive_header(packet) == MFD_E_ARGUMENT);
  free(packet);
  drop_block(block);
}

static void test_headers(void) {
  int32_t sockets[2];
  CHECK(mfd_socketpair(sockets) == 0);
  const struct block block = make_block();
  struct mfd_packet *const packet = make_packet(block, sockets[1], MAPPING);
  uint8_t bytes[300];
  for (size_t i = 0; i < sizeof bytes; i++)
    bytes[i] = (uint8_t)i;
  packet->header_bytes = 100;
  CHECK(mfd_send_bytes(sockets[0], bytes, 100) == 100);
  CHECK(mfd_receive_header(packet) == 100 && memcmp(packet->header, bytes, 100) == 0);
  packet->short_header_bytes = 12;
  packet->short_flag_at = 8;
  packet->short_flag_mask = 64;
  CHECK(mfd_send_bytes(sockets[0], bytes, 100) == 100);
  CHECK(mfd_receive_header(packet) == 100 && memcmp(packet->header, bytes, 100) == 0);
  bytes[11] = 64;
  CHECK(mfd_send_bytes(sockets[0], bytes, 12) == 12);
  CHECK(mfd_receive_header(packet) == 12);
  CHECK(mfd_send_bytes(sockets[0], bytes, 11) == 11);
  CHECK(mfd_shutdown_write(sockets[0]) == 0);
  CHECK(mfd_receive_header(packet) == MFD_E_CUT);
  CHECK(mfd_receive_header(packet) == 0);
  mfd_close(sockets[0]);
  mfd_close(sockets[1]);
  free(packet);
  drop_block(block);
}

static void test_placing(void) {
  for (enum through through = MAPPING; through <= FRESH_PAGES; through++) {
    const struct block block = make_block();
    struct mfd_packet *const packet = make_packet(block, -1, through);
    packet->pages[0] = PAGES - 1;
    packet->pages[1] = 4;
    packet->pages[2] = 5;
    packet->normal_pages = 3;
    packet->payload_bytes = 3 * PAGE;
    for (uint32_t i = 0; i < 3 * PAGE; i++)
      packet->payload[i] = (uint8_t)(1 + i / PAGE);
    CHECK(mfd_place_pages(packet) == 0);
    CHECK(block.at[BLOCK_BYTES - 1] == 1 && block.at[4 * PAGE] == 2 && block.at[6 * PAGE - 1] == 3);
    // A run that the file has in part: its first page is made, the second written over.
    packet->pages[0] = 3;
    packet->pages[1] = 4;
    packet->normal_pages = 2;
    packet->payload_bytes = 2 * PAGE;
    CHECK(mfd_place_pages(packet) == 0);
    CHECK(block.at[3 * PAGE] == 1 && block.at[4 * PAGE - 1] == 1 && block.at[5 * PAGE - 1] == 2);
    packet->pages[0] = PAGES - 1;
    packet->zero_pages = 2;
    CHECK(mfd_clear_pages(packet) == 0);
    CHECK(block.at[BLOCK_BYTES - 1] == 0 && block.at[5 * PAGE - 1] == 0 && block.at[5 * PAGE] == 3);
    free(packet);
    drop_block(block);
  }
}

/* From one block into another without a wire: what was prepared is placed, zero pages left out. */
static void test_placing_prepared(void) {
  for (enum through through = MAPPING; through <= FRESH_PAGES; through++) {
    const struct block from = make_block(), to = make_block();
    fill_block(from);
    memset(from.at + 5 * PAGE, 0, PAGE);
    struct mfd_packet *const packet = make_packet(to, -1, through);
    const uint64_t address = packet->address;
    const int32_t file = packet->file;
    packet->pages[0] = 4;
    packet->pages[1] = 5;
    packet->pages[2] = 7;
    packet->normal_pages = 3;
    packet->address = 0;
    packet->file = from.fd;
    CHECK(mfd_prepare(packet, 1) == 2 * PAGE);
    packet->address = address;
    packet->file = file;
    CHECK(mfd_place_prepared(packet) == 0);
    CHECK(memcmp(to.at + 4 * PAGE, from.at + 4 * PAGE, PAGE) == 0);
    CHECK(memcmp(to.at + 7 * PAGE, from.at + 7 * PAGE, PAGE) == 0);
    CHECK(to.at[3 * PAGE] == 0 && to.at[5 * PAGE] == 0);
    packet->pages[0] = PAGES;
    CHECK(mfd_place_prepared(packet) == MFD_E_OUTSIDE);
    packet->address = 0;
    packet->file = -1;
    CHECK(mfd_place_prepared(packet) == MFD_E_ARGUMENT && mfd_place_prepared(NULL) == MFD_E_ARGUMENT);
    free(packet);
    drop_block(from);
    drop_block(to);
  }
}

/* A payload that came over no socket: decoded, and placed behind an offset of the file; or refused whole. */
static void test_placing_coded(void) {
  const struct block block = make_block(), file = make_block();
  fill_block(block);
  struct mfd_packet *const packet = make_packet(block, -1, MAPPING);
  const int64_t compressor = mfd_compressor_create(MFD_CODEC_ZLIB, 1);
  int64_t decompressor = mfd_decompressor_create(MFD_CODEC_ZLIB);
  CHECK(compressor > 0 && decompressor > 0);
  packet->pages[0] = 1;
  packet->pages[1] = 2;
  packet->normal_pages = 2;
  packet->codec = (uint32_t)compressor;
  packet->file = block.fd;
  CHECK(mfd_prepare(packet, 0) > 0);
  packet->codec = (uint32_t)decompressor;
  packet->address = 0;
  packet->file = file.fd;
  packet->file_offset = 7 * PAGE;
  CHECK(mfd_place_pages(packet) == 0);
  CHECK(memcmp(file.at + 8 * PAGE, block.at + PAGE, 2 * PAGE) == 0);

  const uint32_t payload_bytes = packet->payload_bytes;
  packet->payload_bytes = MFD_PAYLOAD_MAX + 1;
  CHECK(mfd_place_pages(packet) == MFD_E_ARGUMENT);
  packet->payload_bytes = 0;
  CHECK(mfd_place_pages(packet) < 0);
  packet->payload_bytes = payload_bytes;
  packet->codec = (uint32_t)compressor;
  CHECK(mfd_place_pages(packet) == MFD_E_ARGUMENT);
  CHECK(mfd_codec_free((int32_t)decompressor) == 0);
  decompressor = mfd_decompressor_create(MFD_CODEC_ZLIB);
  packet->codec = (uint32_t)decompressor;
  packet->normal_pages = 1;
  CHECK(mfd_place_pages(packet) == MFD_E_LONG);
  CHECK(mfd_codec_free((int32_t)decompressor) == 0 && mfd_codec_free((int32_t)compressor) == 0);
  free(packet);
  drop_block(file);
  drop_block(block);
}

static void test_short_file(void) {
  const struct block block = make_block();
  struct mfd_packet *const packet = make_packet(block, -1, FILE_WRITES);
  packet->pages[0] = PAGES - 1;
  packet->normal_pages = 1;
  packet->file_offset = 1;
  CHECK(mfd_prepare(packet, 1) == -ENODATA);
  CHECK(mfd_fresh_register(0, PAGE) == MFD_E_ARGUMENT);
  CHECK(mfd_fresh_register((double)(uintptr_t)block.at + 1, PAGE) == -EINVAL);
  free(packet);
  drop_block(block);
}

/* What a codec makes hardly smaller stays as it is, where that is allowed; and is packed where it is not. */
static void test_raw_fallback(void) {
  const struct block block = make_block();
  for (size_t i = 0; i < BLOCK_BYTES; i++)
    block.at[i] = i < BLOCK_BYTES / 2 ? (uint8_t)random_word() : (uint8_t)(i >> 6);
  struct mfd_packet *const packet = make_packet(block, -1, FILE_WRITES);
  const int32_t methods[] = {MFD_CODEC_ZLIB, MFD_CODEC_ZSTD, MFD_CODEC_LZ4};
  for (size_t each = 0; each < 3; each++) {
    const int64_t codec = mfd_compressor_create(methods[each], 1);
    if (codec == MFD_E_NO_CODEC)
      continue;
    CHECK(codec > 0);
    for (uint32_t half = 0; half < 2; half++) {
      for (uint32_t allowed = 0; allowed < 2; allowed++) {
        for (uint32_t i = 0; i < 128; i++)
          packet->pages[i] = half * 128 + i;
        packet->normal_pages = 128;
        packet->zero_pages = 0;
        packet->codec = (uint32_t)codec;
        packet->raw_fallback = allowed;
        const int64_t bytes = mfd_prepare(packet, 1);
        CHECK(bytes == packet->payload_bytes && bytes > 0);
        const bool raw = half == 0 && allowed;
        CHECK(packet->codec == (raw ? 0 : (uint32_t)codec));
        if (raw)
          CHECK(bytes == 128 * PAGE && memcmp(packet->pages_scratch, block.at, 128 * PAGE) == 0);
      }
    }
    CHECK(mfd_codec_free((int32_t)codec) == 0);
  }
  free(packet);
  drop_block(block);
}

/* Any bytes at all, and valid payloads with one byte changed: an answer, never a bad access. */
static void test_hostile_payloads(void) {
  const struct block block = make_block();
  fill_block(block);
  struct mfd_packet *const out = make_packet(block, -1, FILE_WRITES);
  struct mfd_packet *const in = make_packet(block, -1, FILE_WRITES);
  for (int32_t method = MFD_CODEC_ZLIB; method <= MFD_CODEC_LZ4; method++) {
    if (!(mfd_features() & (method == MFD_CODEC_LZ4 ? 8 : method == MFD_CODEC_ZSTD ? 4 : 1)))
      continue;
    for (uint32_t round = 0; round < 300; round++) {
      int32_t sockets[2];
      CHECK(mfd_socketpair(sockets) == 0);
      out->codec =
          (uint32_t)mfd_compressor_create(method, method == MFD_CODEC_LZ4 ? 1 : (int32_t)(round % 5));
      in->codec = (uint32_t)mfd_decompressor_create(method);
      in->socket = sockets[1];
      for (uint32_t i = 0; i < 8; i++)
        out->pages[i] = in->pages[i] = (round + i) % PAGES;
      out->normal_pages = 8;
      out->zero_pages = 0;
      in->normal_pages = 1 + random_word() % 8;
      CHECK(mfd_prepare(out, 0) > 0);
      if (round % 3 == 0)
        for (uint32_t i = method == MFD_CODEC_LZ4 ? 0 : 2; i < out->payload_bytes; i++)
          out->payload[i] = (uint8_t)random_word();
      else
        out->payload[random_word() % out->payload_bytes] ^= (uint8_t)(1u << random_word() % 8);
      in->payload_bytes = round % 2 ? out->payload_bytes : 1 + random_word() % out->payload_bytes;
      CHECK(mfd_send_bytes(sockets[0], out->payload, in->payload_bytes) == in->payload_bytes);
      const int64_t result = mfd_receive_pages(in);
      CHECK(result == in->payload_bytes || (result <= MFD_E_CORRUPT && result >= MFD_E_ENDED));
      CHECK(mfd_codec_free((int32_t)out->codec) == 0 && mfd_codec_free((int32_t)in->codec) == 0);
      mfd_close(sockets[0]);
      mfd_close(sockets[1]);
    }
  }
  free(out);
  free(in);
  drop_block(block);
}

static void test_codec_handles(void) {
  CHECK(mfd_compressor_create(0, 1) == MFD_E_ARGUMENT && mfd_decompressor_create(4) == MFD_E_ARGUMENT);
  CHECK(mfd_compressor_create(MFD_CODEC_ZLIB, 10) == MFD_E_ARGUMENT);
  CHECK(mfd_compressor_create(MFD_CODEC_ZLIB, -1) == MFD_E_ARGUMENT);
  CHECK(mfd_compressor_create(MFD_CODEC_ZSTD, 21) == MFD_E_ARGUMENT);
  CHECK(mfd_compressor_create(MFD_CODEC_ZSTD, MFD_ZSTD_STORE - 1) == MFD_E_ARGUMENT);
  CHECK(mfd_compressor_create(MFD_CODEC_LZ4, 0) == MFD_E_ARGUMENT);
  CHECK(mfd_compressor_create(MFD_CODEC_LZ4, 2) == MFD_E_ARGUMENT);
  CHECK(mfd_codec_free(0) == MFD_E_ARGUMENT && mfd_codec_free(1025) == MFD_E_ARGUMENT);
  CHECK(mfd_codec_free(-1) == MFD_E_ARGUMENT && mfd_codec_free(5) == MFD_E_ARGUMENT);
  for (int32_t i = 0; i < 1024; i++)
    CHECK(mfd_compressor_create(MFD_CODEC_ZLIB, 0) == i + 1);
  CHECK(mfd_compressor_create(MFD_CODEC_ZLIB, 0) == -EMFILE);
  for (int32_t i = 0; i < 1024; i++)
    CHECK(mfd_codec_free(i + 1) == 0);
}

static void test_memory(void) {
  const struct block block = make_block();
  const double at = (double)(uintptr_t)block.at;
  uint8_t bytes[64] = {1, 2, 3};
  CHECK(mfd_write_memory(at, BLOCK_BYTES, BLOCK_BYTES - 64, bytes, 64) == 0);
  CHECK(mfd_read_memory(at, BLOCK_BYTES, BLOCK_BYTES - 64, bytes, 64) == 0);
  CHECK(mfd_read_memory(at, BLOCK_BYTES, BLOCK_BYTES - 63, bytes, 64) == MFD_E_OUTSIDE);
  CHECK(mfd_write_memory(at, BLOCK_BYTES, 9007199254740991.0, bytes, 64) == MFD_E_OUTSIDE);
  CHECK(mfd_read_memory(at, BLOCK_BYTES, NAN, bytes, 64) == MFD_E_ARGUMENT);
  CHECK(mfd_read_memory(at, BLOCK_BYTES, -1, bytes, 64) == MFD_E_ARGUMENT);
  CHECK(mfd_read_memory(at, BLOCK_BYTES, 0.5, bytes, 64) == MFD_E_ARGUMENT);
  CHECK(mfd_read_memory(at, INFINITY, 0, bytes, 64) == MFD_E_ARGUMENT);
  CHECK(mfd_read_memory(0, BLOCK_BYTES, 0, bytes, 64) == MFD_E_ARGUMENT);
  CHECK(mfd_map(block.fd, 0, BLOCK_BYTES + 1, 1) == MFD_E_OUTSIDE);
  CHECK(mfd_map(block.fd, PAGE, BLOCK_BYTES, 1) == MFD_E_OUTSIDE);
  CHECK(mfd_map(block.fd, 0, 0, 1) == MFD_E_ARGUMENT);
  CHECK(mfd_map(-1, 0, PAGE, 1) == -EBADF);
  CHECK(mfd_memfd(NULL, 1, 0) == MFD_E_ARGUMENT && mfd_memfd("x", 1, 3) == MFD_E_ARGUMENT);
  CHECK(mfd_reserve(block.fd, BLOCK_BYTES) == 0 && mfd_reserve(-1, 1) == -EBADF);
  CHECK(mfd_seek_data(block.fd, 0) == BLOCK_BYTES - PAGE); // reserved storage is no data until it is written
  CHECK(mfd_punch(block.fd, 0, BLOCK_BYTES) == 0 && mfd_punch(block.fd, 0, 0) == 0);
  CHECK(mfd_seek_data(block.fd, 0) == -ENXIO && mfd_seek_data(block.fd, -1) == MFD_E_ARGUMENT);
  CHECK(mfd_seek_hole(block.fd, 0) == 0 && mfd_seek_hole(block.fd, -1) == MFD_E_ARGUMENT);
  CHECK(mfd_huge_page_bytes(block.fd) == 0 && mfd_huge_page_bytes(-1) == -EBADF);
  drop_block(block);
}

static void *shut_down_in_thread(void *argument) {
  const int fd = *(int *)argument;
  CHECK(mfd_shutdown(fd) == 0);
  return NULL;
}

static void test_sockets(void) {
  char path[] = "/tmp/multifd-kernel-test-XXXXXX";
  CHECK(mkdtemp(path) != NULL);
  char name[64];
  snprintf(name, sizeof name, "%s/socket", path);
  for (int32_t family = 1; family <= 4; family += 3) {
    const char *const host = family == 1 ? name : "127.0.0.1";
    const int64_t listener = mfd_listen(family, host, 0, 4);
    CHECK(listener >= 0);
    CHECK(mfd_accept((int32_t)listener) == -EAGAIN);
    const int32_t port = (int32_t)mfd_local_port((int32_t)listener);
    const int64_t ours = mfd_connect(family, host, port, 1000);
    CHECK(ours >= 0);
    const int64_t theirs = mfd_accept((int32_t)listener);
    CHECK(theirs >= 0);
    uint8_t byte = 9, seen = 0, ready = 0;
    const int32_t watched = (int32_t)theirs;
    CHECK(mfd_peek(watched, &seen, 1) == -EAGAIN);
    CHECK(mfd_poll(&watched, 1, 0, &ready) == 0 && ready == 0);
    CHECK(mfd_send_bytes((int32_t)ours, &byte, 1) == 1);
    CHECK(mfd_poll(&watched, 1, 1000, &ready) == 1 && ready == 1);
    CHECK(mfd_peek(watched, &seen, 1) == 1 && seen == 9);
    CHECK(mfd_receive_bytes(watched, &seen, 1) == 1);
    CHECK(mfd_socket_timeout(watched, 20) == 0);
    CHECK(mfd_receive_bytes(watched, &seen, 1) == MFD_E_TIMEOUT);
    CHECK(mfd_socket_timeout(watched, 0) == 0);
    // Wakes the receive that this thread enters meanwhile.
    pthread_t thread;
    int fd = watched;
    CHECK(pthread_create(&thread, NULL, shut_down_in_thread, &fd) == 0);
    CHECK(mfd_receive_bytes(watched, &seen, 1) == 0);
    CHECK(pthread_join(thread, NULL) == 0);
    CHECK(mfd_send_bytes(watched, &seen, 1) == -EPIPE);
    CHECK(mfd_close(watched) == 0 && mfd_close((int32_t)ours) == 0 && mfd_close((int32_t)listener) == 0);
    CHECK(mfd_connect(family, host, port, 1000) == -ECONNREFUSED);
  }
  CHECK(unlink(name) == 0 && rmdir(path) == 0);
  char endless[200];
  memset(endless, 'x', sizeof endless - 1);
  endless[sizeof endless - 1] = 0;
  CHECK(mfd_connect(1, endless, 0, 100) == -ENAMETOOLONG && mfd_listen(1, endless, 0, 1) == -ENAMETOOLONG);
  CHECK(mfd_connect(5, "x", 0, 100) == MFD_E_ARGUMENT && mfd_connect(4, "host", 1, 100) == MFD_E_ARGUMENT);
  CHECK(mfd_connect(4, "127.0.0.1", 65536, 100) == MFD_E_ARGUMENT);
  CHECK(mfd_connect(4, NULL, 1, 100) == MFD_E_ARGUMENT && mfd_connect(1, "", 0, 100) == MFD_E_ARGUMENT);
  CHECK(mfd_connect(4, "127.0.0.1", 1, 0) == MFD_E_ARGUMENT);
  CHECK(mfd_accept(-1) < 0 && mfd_close(-1) == -EBADF && mfd_shutdown(-1) == -EBADF);
  CHECK(mfd_poll(NULL, 1, 0, NULL) == MFD_E_ARGUMENT && mfd_poll(NULL, 1025, 0, NULL) == MFD_E_ARGUMENT);
  CHECK(mfd_socketpair(NULL) == MFD_E_ARGUMENT && mfd_socket_timeout(0, -1) == MFD_E_ARGUMENT);
  CHECK(mfd_local_port(-1) == -EBADF && mfd_shutdown_write(-1) == -EBADF);
}

static int open_descriptors(void) {
  int count = 0;
  for (int fd = 0; fd < 1024; fd++)
    count += fcntl(fd, F_GETFD) >= 0;
  return count;
}

static void test_descriptors(void) {
  int32_t sockets[2], sent[5], received[64], count;
  CHECK(mfd_socketpair(sockets) == 0);
  for (int i = 0; i < 5; i++)
    sent[i] = sockets[0];
  const int before = open_descriptors();
  uint8_t bytes[8] = "message";
  CHECK(mfd_send_descriptors(sockets[0], bytes, 8, sent, 5) == 8);
  CHECK(mfd_receive_descriptors(sockets[1], bytes, 8, received, 2, &count) == 8 && count == 2);
  CHECK(open_descriptors() == before + 2);
  CHECK((fcntl(received[0], F_GETFD) & FD_CLOEXEC) != 0);
  mfd_close(received[0]);
  mfd_close(received[1]);
  CHECK(mfd_send_descriptors(sockets[0], bytes, 8, NULL, 0) == 8);
  CHECK(mfd_receive_descriptors(sockets[1], bytes, 8, NULL, 0, &count) == 8 && count == 0);
  CHECK(mfd_send_descriptors(sockets[0], bytes, 0, sent, 1) == MFD_E_ARGUMENT);
  CHECK(mfd_send_descriptors(sockets[0], bytes, 8, sent, 65) == MFD_E_ARGUMENT);
  CHECK(mfd_receive_descriptors(sockets[1], bytes, 8, received, 65, &count) == MFD_E_ARGUMENT);
  CHECK(mfd_receive_descriptors(sockets[1], NULL, 8, received, 6, &count) == MFD_E_ARGUMENT);
  mfd_close(sockets[0]);
  CHECK(mfd_receive_descriptors(sockets[1], bytes, 8, received, 4, &count) == 0 && count == 0);
  mfd_close(sockets[1]);
}

static void test_bitmaps(void) {
  const struct block block = make_block();
  uint32_t bitmap[4] = {1, 0, 0x80000001, 0}, out[4] = {2, 4, 0, 0};
  CHECK(mfd_exchange_bitmap((uint8_t *)bitmap, 16, (uint8_t *)out, 16) == 3);
  CHECK(out[0] == 3 && out[1] == 4 && out[2] == 0x80000001 && bitmap[0] == 0 && bitmap[2] == 0);
  CHECK(mfd_exchange_bitmap((uint8_t *)bitmap, 16, (uint8_t *)out, 12) == MFD_E_OUTSIDE);
  CHECK(mfd_exchange_bitmap((uint8_t *)bitmap, 15, (uint8_t *)out, 16) == MFD_E_ARGUMENT);
  CHECK(mfd_exchange_bitmap((uint8_t *)bitmap + 1, 4, (uint8_t *)out, 16) == MFD_E_ARGUMENT);
  CHECK(mfd_exchange_bitmap(NULL, 4, (uint8_t *)out, 16) == MFD_E_ARGUMENT);
  CHECK(mfd_exchange_bitmap(NULL, 0, NULL, 0) == 0);
  block.at[5] = 0xff;
  CHECK(mfd_exchange_mapped_bitmap((double)(uintptr_t)block.at, 16, (uint8_t *)out, 16) == 8);
  CHECK(block.at[5] == 0 && out[1] == 0xff04);
  CHECK(mfd_exchange_mapped_bitmap(0, 16, (uint8_t *)out, 16) == MFD_E_ARGUMENT);
  drop_block(block);
}

static void test_rings_and_events(void) {
  const struct block block = make_block();
  const double at = (double)(uintptr_t)block.at;
  CHECK(mfd_store_index(at, 8, 6, 0xabcd) == 0 && mfd_load_index(at, 8, 6) == 0xabcd && block.at[6] == 0xcd);
  CHECK(mfd_load_index(at, 8, 7) == MFD_E_OUTSIDE && mfd_load_index(at, 8, 3) == MFD_E_ARGUMENT);
  CHECK(mfd_store_index(at, 8, 8, 0) == MFD_E_OUTSIDE && mfd_store_index(at, 8, 0, 65536) == MFD_E_ARGUMENT);
  memset(block.at, 0, 16);
  CHECK(mfd_mark_pages(at, 8, 6, 21) == 0);
  CHECK(block.at[0] == 0xc0 && block.at[1] == 0xff && block.at[2] == 0xff && block.at[3] == 0x07);
  CHECK(mfd_mark_pages(at, 8, 63, 1) == 0 && block.at[7] == 0x80 && block.at[8] == 0);
  CHECK(mfd_mark_pages(at, 8, 64, 0) == 0 && mfd_mark_pages(at, 8, 63, 2) == MFD_E_OUTSIDE);
  CHECK(mfd_mark_pages(at, 8, 9007199254740991.0, 1) == MFD_E_OUTSIDE);
  CHECK(mfd_mark_pages(at, 8, 0.5, 1) == MFD_E_ARGUMENT && mfd_mark_pages(0, 8, 0, 1) == MFD_E_ARGUMENT);
  drop_block(block);

  const int32_t event = (int32_t)mfd_eventfd(0);
  CHECK(event >= 0 && mfd_eventfd(-1) == MFD_E_ARGUMENT && mfd_eventfd_take(event) == 0);
  CHECK(mfd_eventfd_signal(event) == 0 && mfd_eventfd_signal(event) == 0 && mfd_eventfd_take(event) == 2);
  CHECK(fcntl(event, F_SETFL, 0) == 0 && mfd_eventfd_take(event) == 0); // must not wait either
  mfd_close(event);
  CHECK(mfd_eventfd_signal(-1) == -EBADF && mfd_eventfd_take(-1) == -EBADF);
  int32_t ends[2];
  CHECK(mfd_pipe(NULL) == MFD_E_ARGUMENT && mfd_pipe(ends) == 0);
  char byte = 'x';
  CHECK(write(ends[1], &byte, 1) == 1 && mfd_eventfd_take(ends[0]) == -EINVAL);
  CHECK(write(ends[1], &byte, 1) == 1 && read(ends[0], &byte, 1) == 1);
  mfd_close(ends[0]);
  mfd_close(ends[1]);
}

/* A child registers and writes its own mapping of a shared file; the parent harvests. */
static void test_tracking(void) {
  int32_t step = -1;
  CHECK(mfd_track_probe(NULL) == MFD_E_ARGUMENT);
  uint8_t bitmap[PAGES / 8];
  const double size = sizeof bitmap;
  CHECK(mfd_track_harvest(-1, 0, BLOCK_BYTES, PAGE, bitmap, size) == -EBADF);
  CHECK(mfd_track_harvest(-1, 0, BLOCK_BYTES, PAGE, bitmap, size - 1) == MFD_E_OUTSIDE);
  CHECK(mfd_track_harvest(-1, 0, BLOCK_BYTES, 100, bitmap, size) == MFD_E_ARGUMENT);
  CHECK(mfd_track_harvest(-1, 0, BLOCK_BYTES, PAGE, NULL, size) == MFD_E_ARGUMENT);
  CHECK(mfd_track_register(0, PAGE) == MFD_E_ARGUMENT);
  CHECK(mfd_track_enable(-1) == -EBADF);
  CHECK(mfd_track_register_in(-1, -1, PAGE) == MFD_E_ARGUMENT);
  CHECK(mfd_track_register_in(-1, PAGE, 0x1p60) == MFD_E_ARGUMENT);
  CHECK(mfd_track_register_in(-1, PAGE, PAGE) == -EBADF);
  CHECK(mfd_track_unregister(-1, PAGE, 0.5) == MFD_E_ARGUMENT);
  CHECK(mfd_track_unregister(-1, PAGE, PAGE) == -EBADF);
  if (mfd_track_probe(&step) < 0) {
    CHECK(step >= 1 && step <= 3);
    return; // this kernel cannot; `multifd doctor` tells which part is missing
  }
  CHECK(step == 0);

  const struct block block = make_block();
  int32_t sockets[2];
  CHECK(mfd_socketpair(sockets) == 0);
  const pid_t child = fork();
  CHECK(child >= 0);
  if (child == 0) {
    mfd_close(sockets[0]);
    const int64_t tracker = mfd_track_register((double)(uintptr_t)block.at, BLOCK_BYTES);
    uint8_t page = tracker >= 0;
    do { // tells that it is ready, then writes each page it is told
      mfd_send_bytes(sockets[1], &page, 1);
      if (mfd_receive_bytes(sockets[1], &page, 1) != 1)
        _exit(0);
      block.at[page * PAGE + 17]++;
    } while (true);
  }
  mfd_close(sockets[1]);
  uint8_t byte = 0;
  CHECK(mfd_receive_bytes(sockets[0], &byte, 1) == 1 && byte == 1);
  char path[64];
  snprintf(path, sizeof path, "/proc/%d/pagemap", (int)child);
  const int pagemap = open(path, O_RDONLY | O_CLOEXEC);
  CHECK(pagemap >= 0);
  const double start = (double)(uintptr_t)block.at; // the fork kept the address
  memset(bitmap, 0, sizeof bitmap);
  CHECK(mfd_track_harvest(pagemap, start, BLOCK_BYTES, PAGE, bitmap, size) >= 0);
  // Every other page: as many regions as pages.
  for (int round = 0; round < 2; round++) {
    for (uint32_t page = 0; page < PAGES; page += 2) {
      byte = (uint8_t)page;
      CHECK(mfd_send_bytes(sockets[0], &byte, 1) == 1 && mfd_receive_bytes(sockets[0], &byte, 1) == 1);
    }
    memset(bitmap, 0, sizeof bitmap);
    CHECK(mfd_track_harvest(pagemap, start, BLOCK_BYTES, PAGE, bitmap, size) == PAGES / 2);
    for (size_t i = 0; i < sizeof bitmap; i++)
      CHECK(bitmap[i] == 0x55);
    CHECK(mfd_track_harvest(pagemap, start, BLOCK_BYTES, PAGE, bitmap, size) == 0);
    CHECK(bitmap[0] == 0x55); // bits set before stay
  }
  byte = 200;
  CHECK(mfd_send_bytes(sockets[0], &byte, 1) == 1 && mfd_receive_bytes(sockets[0], &byte, 1) == 1);
  memset(bitmap, 0, sizeof bitmap);
  CHECK(mfd_track_harvest(pagemap, start, BLOCK_BYTES, 65536, bitmap, 2) == 1);
  CHECK(bitmap[0] == 0 && bitmap[1] == 1 << (200 / 16 - 8));
  close(pagemap);
  mfd_close(sockets[0]);
  int status;
  CHECK(waitpid(child, &status, 0) == child && status == 0);
  drop_block(block);
}

int main(void) {
  CHECK((mfd_features() & 1) == 1);
  CHECK(mfd_thread_cpu_us() >= 0);
  const int before = open_descriptors();
  test_codec_handles();
  test_memory();
  test_locks();
  test_zero_scan();
  test_packet_refusals();
  test_headers();
  test_placing();
  test_placing_prepared();
  test_placing_coded();
  test_short_file();
  test_moving();
  test_ranges();
  test_many_iovecs();
  test_raw_fallback();
  test_hostile_payloads();
  test_sockets();
  test_descriptors();
  test_bitmaps();
  test_rings_and_events();
  test_tracking();
  CHECK(open_descriptors() == before);
  return 0;
}
