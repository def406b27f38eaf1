/*
 * Prepare: from a list of page indexes to a packet's two lists and its payload.
 *
 * A codec works on a copy. A running guest may change a page under a
 * compressor, which reads its input more than once and would then write a
 * match for bytes that are no longer there.
 */
#include "internal.h"

#include <string.h>

/* Normal pages to the front, zero pages behind them, order kept in both. */
static void split_pages(struct mfd_packet *packet, uint32_t count) {
  mfd_zero_scan *const is_zero = mfd_zero_scan_get();
  const uint8_t *const block = (const uint8_t *)(uintptr_t)packet->address;
  const size_t page_bytes = packet->page_bytes;
  uint32_t zero[MFD_PAGES_MAX];
  uint32_t zero_pages = 0, normal_pages = 0;
  for (uint32_t i = 0; i < count; i++) {
    const uint32_t page = packet->pages[i];
    if (is_zero(block + page * page_bytes, page_bytes))
      zero[zero_pages++] = page;
    else
      packet->pages[normal_pages++] = page;
  }
  memcpy(packet->pages + normal_pages, zero, zero_pages * sizeof zero[0]);
  packet->normal_pages = normal_pages;
  packet->zero_pages = zero_pages;
}

static void gather_pages(struct mfd_packet *packet) {
  const uint8_t *const block = (const uint8_t *)(uintptr_t)packet->address;
  const size_t page_bytes = packet->page_bytes;
  uint8_t *out = packet->pages_scratch;
  for (uint32_t i = 0; i < packet->normal_pages;) {
    const uint32_t run = mfd_run_pages(packet->pages, i, packet->normal_pages);
    memcpy(out, block + packet->pages[i] * page_bytes, run * page_bytes);
    out += run * page_bytes;
    i += run;
  }
}

int64_t mfd_prepare(struct mfd_packet *packet, int32_t detect_zero) {
  if (packet == NULL || packet->address == 0)
    return MFD_E_ARGUMENT;
  struct mfd_codec *const codec = mfd_codec_find(packet->codec);
  if (packet->codec != 0 && (codec == NULL || codec->compress == NULL))
    return MFD_E_ARGUMENT;
  const uint64_t count = (uint64_t)packet->normal_pages + packet->zero_pages;
  const int64_t checked = mfd_check_pages(packet, count, codec ? MFD_PACKET_BYTES : MFD_PAYLOAD_MAX);
  if (checked < 0)
    return checked;

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
  gather_pages(packet);
  const int64_t bytes =
      codec->compress(codec, packet->pages_scratch, pages_bytes, packet->payload, MFD_PAYLOAD_MAX);
  packet->payload_bytes = bytes < 0 ? 0 : (uint32_t)bytes;
  return bytes;
}
