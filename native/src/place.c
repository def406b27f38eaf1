/*
 * Place and clear: pages that did not come over this socket, and pages that became zero.
 *
 * Clearing writes zeros and does not punch a hole: a block whose storage was
 * reserved keeps it, so that the guest cannot fault for want of memory later.
 */
#include "internal.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

static const uint8_t zeros[65536];

static bool no_target(const struct mfd_packet *packet) {
  return packet->file < 0 && packet->address == 0;
}

/* Zeros over [offset, offset + bytes) of the file; a range longer than `zeros` takes several writes. */
static int64_t clear_file(int fd, uint64_t offset, uint64_t bytes) {
  while (bytes > 0) {
    const uint64_t step = bytes < sizeof zeros ? bytes : sizeof zeros;
    const int64_t result = mfd_pwrite_all(fd, zeros, step, offset);
    if (result < 0)
      return result;
    offset += step;
    bytes -= step;
  }
  return 0;
}

int64_t mfd_clear_pages(struct mfd_packet *packet) {
  if (packet == NULL || no_target(packet))
    return MFD_E_ARGUMENT;
  const int64_t checked = mfd_check_pages(packet, packet->zero_pages, UINT64_MAX);
  if (checked < 0)
    return checked;
  const uint64_t page_bytes = packet->page_bytes;
  for (uint32_t i = 0; i < packet->zero_pages;) {
    const uint32_t run = mfd_run_pages(packet->pages, i, packet->zero_pages);
    const uint64_t offset = packet->pages[i] * page_bytes;
    if (packet->file >= 0) {
      const int64_t result = clear_file(packet->file, packet->file_offset + offset, run * page_bytes);
      if (result < 0)
        return result;
    } else {
      memset((void *)(uintptr_t)(packet->address + offset), 0, run * page_bytes);
    }
    i += run;
  }
  return 0;
}

static int64_t place_coded(struct mfd_packet *packet, uint64_t pages_bytes) {
  struct mfd_codec *const codec = mfd_codec_find(packet->codec);
  if (codec == NULL || codec->decompress == NULL || pages_bytes > MFD_PACKET_BYTES)
    return MFD_E_ARGUMENT;
  if (packet->payload_bytes > MFD_PAYLOAD_MAX)
    return MFD_E_ARGUMENT;
  const int64_t result =
      codec->decompress(codec, packet->payload, packet->payload_bytes, packet->pages_scratch, pages_bytes);
  return result < 0 ? result : mfd_write_pages(packet, 0, packet->normal_pages, packet->pages_scratch);
}

int64_t mfd_place_prepared(struct mfd_packet *packet) {
  if (packet == NULL || no_target(packet))
    return MFD_E_ARGUMENT;
  const int64_t checked = mfd_check_pages(packet, packet->normal_pages, MFD_PACKET_BYTES);
  return checked < 0 ? checked : mfd_write_pages(packet, 0, packet->normal_pages, packet->pages_scratch);
}

int64_t mfd_place_pages(struct mfd_packet *packet) {
  if (packet == NULL || no_target(packet))
    return MFD_E_ARGUMENT;
  const int64_t checked = mfd_check_pages(packet, packet->normal_pages, MFD_PAYLOAD_MAX);
  if (checked < 0)
    return checked;
  const uint64_t pages_bytes = (uint64_t)packet->normal_pages * packet->page_bytes;
  if (packet->codec != 0)
    return place_coded(packet, pages_bytes);
  if (packet->payload_bytes != pages_bytes)
    return MFD_E_ARGUMENT;
  return mfd_write_pages(packet, 0, packet->normal_pages, packet->payload);
}
