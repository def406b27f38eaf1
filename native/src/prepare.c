/*
 * Prepare: from a list of page indexes to a packet's two lists and its payload.
 *
 * Pages are read from the RAM file into a buffer that stays in the L2 cache, and
 * everything after that works there: the zero scan, the codec, the send. Reading a
 * mapping instead would fault each page in, would make a page of zeros of
 * every hole it looks at, and would hand a compressor, which reads its input more
 * than once, bytes that a running guest changes under it. bench/README.md has
 * both ways measured.
 */
#include "internal.h"

#include <string.h>

/* The listed pages, one after the other, into `pages_scratch`. */
static int64_t read_pages(struct mfd_packet *packet, uint32_t count) {
  const uint64_t page_bytes = packet->page_bytes;
  uint8_t *out = packet->pages_scratch;
  for (uint32_t i = 0; i < count;) {
    const uint32_t run = mfd_run_pages(packet->pages, i, count);
    const uint64_t offset = packet->pages[i] * page_bytes;
    if (packet->file < 0) {
      memcpy(out, (const uint8_t *)(uintptr_t)(packet->address + offset), run * page_bytes);
    } else {
      const int64_t result = mfd_pread_all(packet->file, out, run * page_bytes, packet->file_offset + offset);
      if (result < 0)
        return result;
    }
    out += run * page_bytes;
    i += run;
  }
  return 0;
}

/* Normal pages to the front, zero pages behind them, order kept in both; the bytes follow the normal ones. */
static void split_pages(struct mfd_packet *packet, uint32_t count) {
  mfd_zero_scan *const is_zero = mfd_zero_scan_get();
  const size_t page_bytes = packet->page_bytes;
  uint8_t *const bytes = packet->pages_scratch;
  uint32_t zero[MFD_PAGES_MAX];
  uint32_t zero_pages = 0, normal_pages = 0;
  for (uint32_t i = 0; i < count; i++) {
    const uint32_t page = packet->pages[i];
    if (is_zero(bytes + i * page_bytes, page_bytes)) {
      zero[zero_pages++] = page;
      continue;
    }
    if (normal_pages < i)
      memcpy(bytes + normal_pages * page_bytes, bytes + i * page_bytes, page_bytes);
    packet->pages[normal_pages++] = page;
  }
  memcpy(packet->pages + normal_pages, zero, zero_pages * sizeof zero[0]);
  packet->normal_pages = normal_pages;
  packet->zero_pages = zero_pages;
}

/* Puts normal pages that look like noise behind the others, order kept in both; returns their number. */
static uint32_t set_noise_apart(struct mfd_packet *packet) {
  const size_t page_bytes = packet->page_bytes;
  const uint32_t count = packet->normal_pages;
  uint8_t *const bytes = packet->pages_scratch;
  bool is_noise[MFD_PAGES_MAX];
  uint32_t noise_pages = 0;
  for (uint32_t i = 0; i < count; i++) {
    is_noise[i] = mfd_is_noise(bytes + i * page_bytes, page_bytes);
    noise_pages += is_noise[i];
  }
  if (noise_pages == 0 || noise_pages == count)
    return noise_pages;

  uint8_t *const apart = packet->payload; // free until something is compressed into it
  uint32_t noise[MFD_PAGES_MAX];
  uint32_t others = 0, moved = 0;
  for (uint32_t i = 0; i < count; i++) {
    const uint8_t *const page = bytes + i * page_bytes;
    if (is_noise[i]) {
      memcpy(apart + moved * page_bytes, page, page_bytes);
      noise[moved++] = packet->pages[i];
      continue;
    }
    if (others < i)
      memcpy(bytes + others * page_bytes, page, page_bytes);
    packet->pages[others++] = packet->pages[i];
  }
  memcpy(bytes + others * page_bytes, apart, moved * page_bytes);
  memcpy(packet->pages + others, noise, moved * sizeof noise[0]);
  return noise_pages;
}

/* Compresses the normal pages into `payload`, but stores the last `stored_pages` of them. */
static int64_t encode_apart(struct mfd_packet *packet, struct mfd_codec *codec, uint32_t stored_pages) {
  const size_t stored_bytes = (size_t)stored_pages * packet->page_bytes;
  const size_t bytes = (size_t)packet->normal_pages * packet->page_bytes - stored_bytes;
  const size_t stored_room = MFD_STORED_BYTES(stored_bytes);
  int64_t compressed = 0;
  if (bytes > 0)
    compressed =
        codec->compress(codec, packet->pages_scratch, bytes, packet->payload, MFD_PAYLOAD_MAX - stored_room);
  if (compressed < 0)
    return compressed;
  const int64_t stored = codec->store(codec, packet->pages_scratch + bytes, stored_bytes,
                                      packet->payload + compressed, stored_room);
  return stored < 0 ? stored : compressed + stored;
}

int64_t mfd_prepare(struct mfd_packet *packet, int32_t detect_zero) {
  if (packet == NULL || (packet->file < 0 && packet->address == 0))
    return MFD_E_ARGUMENT;
  struct mfd_codec *const codec = mfd_codec_find(packet->codec);
  if (packet->codec != 0 && (codec == NULL || codec->compress == NULL))
    return MFD_E_ARGUMENT;
  const uint64_t count = (uint64_t)packet->normal_pages + packet->zero_pages;
  int64_t result = mfd_check_pages(packet, count, MFD_PACKET_BYTES);
  if (result >= 0)
    result = read_pages(packet, (uint32_t)count);
  if (result < 0)
    return result;

  if (detect_zero) {
    split_pages(packet, (uint32_t)count);
  } else {
    packet->normal_pages = (uint32_t)count;
    packet->zero_pages = 0;
  }
  const size_t pages_bytes = (size_t)packet->normal_pages * packet->page_bytes;
  if (codec == NULL || packet->normal_pages == 0) {
    packet->payload_bytes = (uint32_t)pages_bytes;
    return (int64_t)pages_bytes;
  }
  // A room so small also lets lz4 give up early on what it cannot shorten.
  const size_t room = packet->raw_fallback ? pages_bytes - pages_bytes / 16 : MFD_PAYLOAD_MAX;
  // Who looks for no zero pages wants the list as it is; and where packets may go out raw, noise mostly does.
  const bool may_part = detect_zero && !packet->raw_fallback && codec->store != NULL;
  const uint32_t noise_pages = may_part ? set_noise_apart(packet) : 0;
  const int64_t bytes =
      noise_pages > 0 ? encode_apart(packet, codec, noise_pages)
                      : codec->compress(codec, packet->pages_scratch, pages_bytes, packet->payload, room);
  if (bytes < 0 && packet->raw_fallback) {
    packet->codec = 0;
    packet->payload_bytes = (uint32_t)pages_bytes;
    return (int64_t)pages_bytes;
  }
  packet->payload_bytes = bytes < 0 ? 0 : (uint32_t)bytes;
  return bytes;
}
