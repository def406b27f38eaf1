/*
 * The commands: what each does to the guest, and its JSON answer.
 *
 * The guest is looked at and changed only while its vCPU is held. A command that
 * makes no sense now is refused, and changes nothing.
 */
#include "guest.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define ANSWER_MAX 1024u

static enum after send_all(int socket, const void *bytes, size_t length) {
  const char *at = bytes;
  while (length > 0) {
    ssize_t sent = send(socket, at, length, MSG_NOSIGNAL);
    if (sent < 0 && errno == EINTR)
      continue;
    if (sent <= 0)
      return DROP;
    at += sent;
    length -= (size_t)sent;
  }
  return KEEP;
}

__attribute__((format(printf, 2, 3))) static enum after answer(int socket, const char *format, ...) {
  char line[ANSWER_MAX];
  va_list values;
  va_start(values, format);
  int length = vsnprintf(line, sizeof line - 1, format, values);
  va_end(values);
  line[length++] = '\n';
  return send_all(socket, line, (size_t)length);
}

enum after refuse(int socket, const char *why) {
  return answer(socket, "{\"ok\":false,\"error\":\"%s\"}", why);
}

static const char *truth(bool value) {
  return value ? "true" : "false";
}

static enum after describe(struct guest *guest, int socket) {
  vcpu_hold(&guest->vcpu);
  bool running = guest->vcpu.running;
  uint64_t written = guest->vcpu.written;
  vcpu_release(&guest->vcpu);
  char line[ANSWER_MAX];
  int length = snprintf(
      line, sizeof line,
      "{\"ok\":true,\"pid\":%d,\"blocks\":[{\"name\":\"guest.ram\",\"bytes\":%llu,\"address\":%llu,"
      "\"pageBytes\":%u}],\"running\":%s,\"incoming\":%s,\"pagesWritten\":%llu,\"tracking\":%s%s%s%s}\n",
      (int)getpid(), (unsigned long long)guest->ram.length, (unsigned long long)(uintptr_t)guest->ram.bytes,
      GUEST_PAGE_BYTES, truth(running), truth(guest->incoming), (unsigned long long)written,
      truth(guest->tracking), guest->tracking ? "" : ",\"trackingError\":\"", guest->tracking_error,
      guest->tracking ? "" : "\"");
  struct iovec part = {.iov_base = line, .iov_len = (size_t)length};
  union {
    struct cmsghdr header;
    char space[CMSG_SPACE(sizeof(int))];
  } control = {0};
  struct msghdr message = {.msg_iov = &part,
                           .msg_iovlen = 1,
                           .msg_control = control.space,
                           .msg_controllen = sizeof control.space};
  struct cmsghdr *header = CMSG_FIRSTHDR(&message);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN(sizeof(int));
  memcpy(CMSG_DATA(header), &guest->memfd, sizeof(int));
  ssize_t sent;
  do
    sent = sendmsg(socket, &message, MSG_NOSIGNAL);
  while (sent < 0 && errno == EINTR);
  return sent == length ? KEEP : DROP;
}

static enum after pause_guest(struct guest *guest, int socket) {
  if (guest->incoming && !guest->ran)
    return refuse(socket, "not running yet: load a state, then run");
  vcpu_hold(&guest->vcpu);
  vcpu_pause(&guest->vcpu);
  uint64_t at = guest->vcpu.paused_at;
  vcpu_release(&guest->vcpu);
  return answer(socket, "{\"ok\":true,\"pausedAtNs\":%llu}", (unsigned long long)at);
}

static enum after resume_guest(struct guest *guest, int socket) {
  if (guest->incoming && !guest->ran)
    return refuse(socket, "not running yet: load a state, then run");
  vcpu_hold(&guest->vcpu);
  if (!guest->vcpu.running)
    vcpu_start(&guest->vcpu);
  vcpu_release(&guest->vcpu);
  return answer(socket, "{\"ok\":true}");
}

static enum after save_state(struct guest *guest, int socket) {
  if (!guest->loaded)
    return refuse(socket, "there is no guest in this RAM yet");
  struct saved_state state;
  if (!guest_save(guest, &state))
    return refuse(socket, "still running: pause first");
  if (answer(socket, "{\"ok\":true,\"bytes\":%zu}", sizeof state) != KEEP)
    return DROP;
  return send_all(socket, &state, sizeof state);
}

enum after load_state(struct guest *guest, int socket, const uint8_t *bytes) {
  if (!guest->incoming || guest->ran)
    return refuse(socket, "a guest runs here already");
  struct saved_state state;
  memcpy(&state, bytes, sizeof state);
  const char *wrong = guest_load(guest, &state);
  return wrong == NULL ? answer(socket, "{\"ok\":true}") : refuse(socket, wrong);
}

static enum after run_guest(struct guest *guest, int socket) {
  if (!guest->incoming || guest->ran)
    return refuse(socket, "a guest runs here already");
  if (!guest->loaded)
    return refuse(socket, "load a state first");
  vcpu_hold(&guest->vcpu);
  vcpu_start(&guest->vcpu);
  // A guest that never writes runs as soon as it may.
  uint64_t at = guest->vcpu.rate == 0 ? monotonic_ns() : vcpu_first_write(&guest->vcpu);
  uint64_t paused_at = guest->vcpu.paused_at;
  guest->ran = at != 0;
  if (!guest->ran)
    vcpu_pause(&guest->vcpu); // refused is refused: it must not begin later
  vcpu_release(&guest->vcpu);
  if (at == 0)
    return refuse(socket, "the guest does not write");
  return answer(socket, "{\"ok\":true,\"downtimeNs\":%llu}", (unsigned long long)(at - paused_at));
}

static enum after check_guest(struct guest *guest, int socket) {
  if (!guest->loaded)
    return refuse(socket, "there is no guest in this RAM yet");
  vcpu_hold(&guest->vcpu); // nothing is written under hold: that is the short pause
  struct guest_verdict verdict = guest_ram_check(&guest->ram, guest->vcpu.sweep, guest->vcpu.next);
  uint64_t sweep = guest->vcpu.sweep, next = guest->vcpu.next, written = guest->vcpu.written;
  bool running = guest->vcpu.running;
  guest->vcpu.rebase = true;
  vcpu_release(&guest->vcpu);
  char first_bad[32] = "null";
  if (verdict.stale + verdict.corrupt > 0)
    snprintf(first_bad, sizeof first_bad, "%llu", (unsigned long long)verdict.first_bad);
  return answer(
      socket,
      "{\"ok\":true,\"pages\":%llu,\"stale\":%llu,\"corrupt\":%llu,\"firstBadPage\":%s,\"sweep\":%llu,"
      "\"next\":%llu,\"pagesWritten\":%llu,\"running\":%s}",
      (unsigned long long)verdict.pages, (unsigned long long)verdict.stale,
      (unsigned long long)verdict.corrupt, first_bad, (unsigned long long)sweep, (unsigned long long)next,
      (unsigned long long)written, truth(running));
}

static enum after tell_status(struct guest *guest, int socket) {
  vcpu_hold(&guest->vcpu);
  uint64_t sweep = guest->vcpu.sweep, next = guest->vcpu.next, written = guest->vcpu.written;
  bool running = guest->vcpu.running;
  vcpu_release(&guest->vcpu);
  return answer(socket, "{\"ok\":true,\"sweep\":%llu,\"next\":%llu,\"pagesWritten\":%llu,\"running\":%s}",
                (unsigned long long)sweep, (unsigned long long)next, (unsigned long long)written,
                truth(running));
}

static enum after set_rate(struct guest *guest, int socket, uint64_t rate) {
  if (rate > GUEST_RATE_MAX)
    return refuse(socket, "a rate beyond 50 GB/s");
  vcpu_hold(&guest->vcpu);
  guest->vcpu.rate = rate;
  guest->vcpu.rebase = true;
  vcpu_release(&guest->vcpu);
  return answer(socket, "{\"ok\":true}");
}

/* Reads "NAME N": true when the line is just that, with N in decimal digits. */
static bool takes_number(const char *line, const char *name, uint64_t *number) {
  size_t length = strlen(name);
  if (strncmp(line, name, length) != 0 || line[length] != ' ')
    return false;
  const char *digits = line + length + 1;
  size_t count = strspn(digits, "0123456789");
  if (count == 0 || count > 18 || digits[count] != '\0')
    return false;
  *number = strtoull(digits, NULL, 10);
  return true;
}

enum after obey(struct guest *guest, int socket, const char *line, size_t *raw_bytes) {
  uint64_t number;
  if (strcmp(line, "describe") == 0)
    return describe(guest, socket);
  if (strcmp(line, "pause") == 0)
    return pause_guest(guest, socket);
  if (strcmp(line, "resume") == 0)
    return resume_guest(guest, socket);
  if (strcmp(line, "save") == 0)
    return save_state(guest, socket);
  if (strcmp(line, "run") == 0)
    return run_guest(guest, socket);
  if (strcmp(line, "status") == 0)
    return tell_status(guest, socket);
  if (strcmp(line, "check") == 0)
    return check_guest(guest, socket);
  if (takes_number(line, "rate", &number))
    return set_rate(guest, socket, number);
  if (takes_number(line, "load", &number)) {
    if (number == sizeof(struct saved_state)) {
      *raw_bytes = (size_t)number;
      return KEEP;
    }
    refuse(socket, "a guest's state has 88 bytes"); // whatever follows is no command: the connection ends
    return DROP;
  }
  if (strcmp(line, "quit") == 0) {
    answer(socket, "{\"ok\":true}");
    return QUIT;
  }
  return refuse(socket, "no such command");
}
