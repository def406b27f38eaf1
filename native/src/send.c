/*
 * Send: one packet as one gathered write, header first.
 */
#include "internal.h"

int64_t mfd_send(struct mfd_packet *packet) {
  if (packet == NULL || packet->header_bytes > MFD_HEADER_MAX)
    return MFD_E_ARGUMENT;
  const bool coded = packet->codec != 0;
  if (packet->payload_bytes > (coded ? MFD_PAYLOAD_MAX : MFD_PACKET_BYTES))
    return MFD_E_ARGUMENT;
  struct iovec iov[2] = {{packet->header, packet->header_bytes},
                         {coded ? packet->payload : packet->pages_scratch, packet->payload_bytes}};
  return mfd_send_all(packet->socket, iov, 2);
}
