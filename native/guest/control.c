/*
 * The control socket: one line asks, one JSON line answers.
 *
 * One connection at a time, served by the main thread; a second one waits in
 * the backlog. A connection's end changes nothing: a paused guest stays paused,
 * for only whoever migrates it knows whether it may run. What the peer sends is
 * checked like any stream: a line's length, a number's range, a state's check word.
 *
 *   describe  pause  resume  save  load N  run  status  check  rate N  quit
 *
 * `describe` is answered in one message that carries the RAM's descriptor. A guest
 * with vhost-user devices tells more there, and knows one command more: see
 * packages/cli/src/vhost-user/guest-devices.ts. This one has none.
 */
#include "guest.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#define INPUT_MAX 4096u
#define SEND_TIMEOUT_S 5

/* Serves what lies in the buffer; returns what is to become of the connection. */
static enum after serve_input(struct guest *guest, int socket, uint8_t *input, size_t *filled,
                              size_t *raw_bytes) {
  size_t at = 0;
  enum after after = KEEP;
  while (after == KEEP) {
    if (*raw_bytes > 0) {
      if (*filled - at < *raw_bytes)
        break;
      after = load_state(guest, socket, input + at);
      at += *raw_bytes;
      *raw_bytes = 0;
      continue;
    }
    uint8_t *end = memchr(input + at, '\n', *filled - at);
    if (end == NULL)
      break;
    *end = '\0';
    const char *line = (const char *)input + at;
    at = (size_t)(end - input) + 1;
    after = obey(guest, socket, line, raw_bytes);
  }
  memmove(input, input + at, *filled - at);
  *filled -= at;
  if (after == KEEP && *filled == INPUT_MAX) {
    refuse(socket, "a command of more than 4096 bytes");
    return DROP;
  }
  return after;
}

/* Returns false when the guest is to end. */
static bool serve_connection(struct guest *guest, int socket, int signal_fd) {
  uint8_t input[INPUT_MAX];
  size_t filled = 0, raw_bytes = 0;
  for (;;) {
    struct pollfd waits[] = {{.fd = signal_fd, .events = POLLIN}, {.fd = socket, .events = POLLIN}};
    if (poll(waits, 2, -1) < 0 && errno != EINTR)
      return true;
    if (waits[0].revents != 0)
      return false;
    if (waits[1].revents == 0)
      continue;
    ssize_t got = recv(socket, input + filled, sizeof input - filled, 0);
    if (got < 0 && errno == EINTR)
      continue;
    if (got <= 0)
      return true;
    filled += (size_t)got;
    enum after after = serve_input(guest, socket, input, &filled, &raw_bytes);
    if (after != KEEP)
      return after != QUIT;
  }
}

void control_serve(struct guest *guest, int listener, int signal_fd) {
  for (bool serving = true; serving;) {
    struct pollfd waits[] = {{.fd = signal_fd, .events = POLLIN}, {.fd = listener, .events = POLLIN}};
    if (poll(waits, 2, -1) < 0 && errno != EINTR)
      return;
    if (waits[0].revents != 0)
      return;
    if (waits[1].revents == 0)
      continue;
    int socket = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    if (socket < 0)
      continue;
    struct timeval bound = {.tv_sec = SEND_TIMEOUT_S};
    setsockopt(socket, SOL_SOCKET, SO_SNDTIMEO, &bound, sizeof bound);
    serving = serve_connection(guest, socket, signal_fd);
    close(socket);
  }
}
