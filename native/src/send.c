/*
 * Send: one packet as one gathered write, header first.
 *
 * Without a codec the pages go out from guest RAM itself, a run of neighbours
 * as one iovec. A packet of 1024 scattered pages has one iovec too many for
 * one sendmsg and takes two.
 */
#include "internal.h"

int64_t mfd_send(struct mfd_packet *packet) {
  if (packet == NULL || packet->header_bytes > MFD_HEADER_MAX || packet->payload_bytes > MFD_PAYLOAD_MAX)
    return MFD_E_ARGUMENT;
  struct iovec iov[1 + MFD_PAGES_MAX];
  size_t iovs = 0;
  iov[iovs++] = (struct iovec){packet->header, packet->header_bytes};

  if (packet->codec != 0) {
    if (packet->normal_pages > 0)
      iov[iovs++] = (struct iovec){packet->payload, packet->payload_bytes};
    return mfd_send_all(packet->socket, iov, iovs);
  }
  if (packet->normal_pages > 0) {
    if (packet->address == 0)
      return MFD_E_ARGUMENT;
    const int64_t checked = mfd_check_pages(packet, packet->normal_pages, MFD_PAYLOAD_MAX);
    if (checked < 0)
      return checked;
  }
  const uint64_t page_bytes = packet->page_bytes;
  for (uint32_t i = 0; i < packet->normal_pages;) {
    const uint32_t run = mfd_run_pages(packet->pages, i, packet->normal_pages);
    void *const at = (void *)(uintptr_t)(packet->address + packet->pages[i] * page_bytes);
    iov[iovs++] = (struct iovec){at, run * page_bytes};
    i += run;
  }
  return mfd_send_all(packet->socket, iov, iovs);
}
