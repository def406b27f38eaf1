/*
 * Receive: one packet's header, then its payload into the RAM block.
 *
 * Everything announced is checked before a byte of payload is read: counts,
 * page indexes, sizes. With a codec the payload is read whole, decoded to
 * `pages_scratch`, and placed only once it decoded to exactly its pages.
 */
#include "internal.h"

static uint32_t be32(const uint8_t *at) {
  return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
}

int64_t mfd_receive_header(struct mfd_packet *packet) {
  if (packet == NULL || packet->header_bytes == 0 || packet->header_bytes > MFD_HEADER_MAX)
    return MFD_E_ARGUMENT;
  const uint32_t all_bytes = packet->header_bytes, short_bytes = packet->short_header_bytes;
  if (short_bytes > all_bytes)
    return MFD_E_ARGUMENT;
  if (short_bytes > 0 && (short_bytes < 4 || packet->short_flag_at > short_bytes - 4))
    return MFD_E_ARGUMENT;

  const uint32_t first = short_bytes > 0 ? short_bytes : all_bytes;
  struct iovec iov = {packet->header, first};
  const int64_t got = mfd_receive_all(packet->socket, &iov, 1);
  if (got <= 0)
    return got;
  if (got < first)
    return MFD_E_CUT;
  if (short_bytes == 0 || (be32(packet->header + packet->short_flag_at) & packet->short_flag_mask) != 0)
    return got;
  const int64_t rest = mfd_receive_exact(packet->socket, packet->header + first, all_bytes - first);
  return rest < 0 ? rest : all_bytes;
}

/* Straight into guest RAM, a run of neighbours as one iovec. */
static int64_t receive_into_mapping(struct mfd_packet *packet) {
  struct iovec iov[MFD_PAGES_MAX];
  size_t iovs = 0;
  const uint64_t page_bytes = packet->page_bytes;
  for (uint32_t i = 0; i < packet->normal_pages;) {
    const uint32_t run = mfd_run_pages(packet->pages, i, packet->normal_pages);
    void *const at = (void *)(uintptr_t)(packet->address + packet->pages[i] * page_bytes);
    iov[iovs++] = (struct iovec){at, run * page_bytes};
    i += run;
  }
  const int64_t got = mfd_receive_all(packet->socket, iov, iovs);
  return got < 0 || got == packet->payload_bytes ? got : MFD_E_CUT;
}

/* Through a stage that stays in the L2 cache between recv and pwrite; `payload` lends it. */
static int64_t receive_into_file(struct mfd_packet *packet) {
  const uint32_t page_bytes = packet->page_bytes;
  const uint32_t stage_pages = MFD_STAGE_BYTES / page_bytes;
  for (uint32_t done = 0; done < packet->normal_pages;) {
    const uint32_t left = packet->normal_pages - done;
    const uint32_t count = left < stage_pages ? left : stage_pages;
    int64_t result = mfd_receive_exact(packet->socket, packet->payload, (size_t)count * page_bytes);
    if (result >= 0)
      result = mfd_write_pages(packet, done, count, packet->payload);
    if (result < 0)
      return result;
    done += count;
  }
  return packet->payload_bytes;
}

static int64_t receive_coded(struct mfd_packet *packet, struct mfd_codec *codec) {
  const size_t pages_bytes = (size_t)packet->normal_pages * packet->page_bytes;
  int64_t result = mfd_receive_exact(packet->socket, packet->payload, packet->payload_bytes);
  if (result >= 0)
    result =
        codec->decompress(codec, packet->payload, packet->payload_bytes, packet->pages_scratch, pages_bytes);
  if (result >= 0)
    result = mfd_write_pages(packet, 0, packet->normal_pages, packet->pages_scratch);
  return result < 0 ? result : packet->payload_bytes;
}

int64_t mfd_receive_pages(struct mfd_packet *packet) {
  if (packet == NULL || (packet->file < 0 && packet->address == 0))
    return MFD_E_ARGUMENT;
  struct mfd_codec *const codec = mfd_codec_find(packet->codec);
  if (packet->codec != 0 && (codec == NULL || codec->decompress == NULL))
    return MFD_E_ARGUMENT;
  const int64_t checked =
      mfd_check_pages(packet, packet->normal_pages, codec ? MFD_PACKET_BYTES : MFD_PAYLOAD_MAX);
  if (checked < 0)
    return checked;
  // Sources before 9.0 leave a stale size in packets without pages; nothing follows them.
  if (packet->normal_pages == 0)
    return 0;
  if (codec != NULL) {
    if (packet->payload_bytes > MFD_PAYLOAD_MAX)
      return MFD_E_ARGUMENT;
    return packet->payload_bytes == 0 ? MFD_E_SHORT : receive_coded(packet, codec);
  }
  const uint64_t pages_bytes = (uint64_t)packet->normal_pages * packet->page_bytes;
  if (packet->payload_bytes != pages_bytes)
    return packet->payload_bytes > pages_bytes ? MFD_E_LONG : MFD_E_SHORT;
  return packet->file >= 0 ? receive_into_file(packet) : receive_into_mapping(packet);
}
