/*
 * Raw ceiling: how fast this machine moves the same pages when nothing else is
 * to be done.
 *
 * One process sends, another receives, one thread and one socket per channel.
 * The sender looks for zero pages, as every migration must, and gathers the
 * others by sendmsg, a packet of 512 KiB at a time. A packet begins with a head
 * of fixed size, its number and one bit per page, which is all that the
 * receiver needs; there is no negotiation, check, round or codec. The sender
 * reads pages in one of two ways, the receiver places them in one of three:
 *
 *   mapping   out of a mapping of the image; recvmsg straight into a fresh
 * mapping of the file file      pread into a buffer that stays in the L2 cache;
 * recv into such a buffer, then pwrite fresh     recv into such a buffer, then
 * UFFDIO_COPY
 *
 * Speaks JSON lines as `multifd send --json` does, so one harness reads both,
 * and ends when its standard input does, so that it can be looked at before.
 * Any failure ends the process: there is nothing here to save.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <err.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define PAGE_BYTES ((size_t)4096)
#define PACKET_PAGES 128
#define STAGE_BYTES ((size_t)256 * 1024)
#define CHANNELS_MAX 64
/* As our channels have it, native/src/socket.c. */
#define UNIX_SEND_BUFFER_BYTES (1 << 20)

struct head {
  uint64_t packet;
  uint64_t normal[PACKET_PAGES / 64]; /* bit i: page i of the packet follows */
};

union address {
  struct sockaddr any;
  struct sockaddr_in v4;
  struct sockaddr_in6 v6;
  struct sockaddr_un local;
};

struct channel {
  pthread_t thread;
  int socket;
  uint64_t wire_bytes;
};

static uint8_t *ram; /* the image's mapping, or the destination's; NULL where
                        pages go through the file */
static int ram_file;
static int fresh = -1; /* makes pages in the destination's mapping, which nobody
                          else touches then */
static uint64_t ram_bytes;
static _Atomic uint64_t next_packet;

/* ---- addresses: unix:PATH, tcp:IPV4:PORT, tcp:[IPV6]:PORT ---- */

static socklen_t parse_address(const char *text, union address *out) {
  memset(out, 0, sizeof *out);
  if (strncmp(text, "unix:", 5) == 0 &&
      strlen(text + 5) < sizeof out->local.sun_path) {
    out->local.sun_family = AF_UNIX;
    strcpy(out->local.sun_path, text + 5);
    return sizeof out->local;
  }
  char host[INET6_ADDRSTRLEN];
  unsigned port;
  if (sscanf(text, "tcp:%45[0-9.]:%u", host, &port) == 2 && port <= 65535 &&
      inet_pton(AF_INET, host, &out->v4.sin_addr) == 1) {
    out->v4.sin_family = AF_INET;
    out->v4.sin_port = htons((uint16_t)port);
    return sizeof out->v4;
  }
  if (sscanf(text, "tcp:[%45[0-9a-fA-F.:]]:%u", host, &port) == 2 &&
      port <= 65535 && inet_pton(AF_INET6, host, &out->v6.sin6_addr) == 1) {
    out->v6.sin6_family = AF_INET6;
    out->v6.sin6_port = htons((uint16_t)port);
    return sizeof out->v6;
  }
  errx(2,
       "address \"%s\": write unix:PATH, tcp:IPV4:PORT or tcp:[IPV6]:PORT",
       text);
}

static void tune(int fd, int family) {
  const int on = 1, bytes = UNIX_SEND_BUFFER_BYTES;
  if (family == AF_UNIX)
    setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof bytes);
  else
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

static int listen_at(const char *text, int backlog) {
  union address at;
  const socklen_t bytes = parse_address(text, &at);
  const int fd = socket(at.any.sa_family, SOCK_STREAM, 0);
  if (fd < 0 || bind(fd, &at.any, bytes) < 0 || listen(fd, backlog) < 0)
    err(1, "listening on %s", text);
  union address self;
  socklen_t self_bytes = sizeof self;
  if (getsockname(fd, &self.any, &self_bytes) < 0)
    err(1, "getsockname");
  char host[INET6_ADDRSTRLEN];
  if (self.any.sa_family == AF_INET) {
    inet_ntop(AF_INET, &self.v4.sin_addr, host, sizeof host);
    printf("{\"event\":\"listening\",\"address\":\"tcp:%s:%u\"}\n", host,
           ntohs(self.v4.sin_port));
  } else if (self.any.sa_family == AF_INET6) {
    inet_ntop(AF_INET6, &self.v6.sin6_addr, host, sizeof host);
    printf("{\"event\":\"listening\",\"address\":\"tcp:[%s]:%u\"}\n", host,
           ntohs(self.v6.sin6_port));
  } else
    printf("{\"event\":\"listening\",\"address\":\"%s\"}\n", text);
  return fd;
}

static int connect_to(const char *text) {
  union address to;
  const socklen_t bytes = parse_address(text, &to);
  const int fd = socket(to.any.sa_family, SOCK_STREAM, 0);
  if (fd < 0 || connect(fd, &to.any, bytes) < 0)
    err(1, "connecting to %s", text);
  tune(fd, to.any.sa_family);
  return fd;
}

/* ---- sending ---- */

static bool is_zero(const uint8_t *page) {
  const uint64_t *const words = (const uint64_t *)(const void *)page;
  const size_t count = PAGE_BYTES / sizeof *words;
  if ((words[0] | words[count / 2] | words[count - 1]) != 0)
    return false;
  for (size_t i = 0; i < count; i += 32) {
    uint64_t any = 0;
    for (size_t j = 0; j < 32; j++)
      any |= words[i + j];
    if (any != 0)
      return false;
  }
  return true;
}

/* The packet's head and its runs of normal pages; returns how many iovecs.
 * `stage` is for pages that are read. */
static size_t gather(struct head *head, struct iovec *iov, uint8_t *stage) {
  const uint64_t from = head->packet * PACKET_PAGES;
  const uint64_t pages = ram_bytes / PAGE_BYTES;
  uint8_t *const at = ram == NULL ? stage : ram + from * PAGE_BYTES;
  if (ram == NULL && pread(ram_file, stage, PACKET_PAGES * PAGE_BYTES,
                           (off_t)(from * PAGE_BYTES)) <= 0)
    err(1, "reading the image");
  size_t iovs = 0;
  iov[iovs++] = (struct iovec){head, sizeof *head};
  bool in_run = false;
  for (uint64_t i = 0; i < PACKET_PAGES && from + i < pages; i++) {
    uint8_t *const page = at + i * PAGE_BYTES;
    if (is_zero(page)) {
      in_run = false;
      continue;
    }
    head->normal[i / 64] |= UINT64_C(1) << (i % 64);
    if (in_run)
      iov[iovs - 1].iov_len += PAGE_BYTES;
    else
      iov[iovs++] = (struct iovec){page, PAGE_BYTES};
    in_run = true;
  }
  return iovs;
}

static uint64_t send_all(int fd, struct iovec *iov, size_t count) {
  uint64_t total = 0;
  while (count > 0) {
    const struct msghdr message = {.msg_iov = iov, .msg_iovlen = count};
    const ssize_t sent = sendmsg(fd, &message, MSG_NOSIGNAL);
    if (sent < 0)
      err(1, "sendmsg");
    total += (uint64_t)sent;
    size_t left = (size_t)sent;
    while (count > 0 && left >= iov->iov_len) {
      left -= iov->iov_len;
      iov++;
      count--;
    }
    if (count > 0) {
      iov->iov_base = (uint8_t *)iov->iov_base + left;
      iov->iov_len -= left;
    }
  }
  return total;
}

/* Sends packets until none is left, then waits until the receiver has placed
 * all and hung up. */
static void *send_channel(void *argument) {
  struct channel *const channel = argument;
  const uint64_t packets =
      (ram_bytes / PAGE_BYTES + PACKET_PAGES - 1) / PACKET_PAGES;
  struct iovec iov[1 + PACKET_PAGES];
  uint8_t *const stage = aligned_alloc(PAGE_BYTES, PACKET_PAGES * PAGE_BYTES);
  if (stage == NULL)
    err(1, "the stage");
  for (;;) {
    struct head head = {.packet = atomic_fetch_add(&next_packet, 1)};
    if (head.packet >= packets)
      break;
    channel->wire_bytes +=
        send_all(channel->socket, iov, gather(&head, iov, stage));
  }
  free(stage);
  uint8_t end;
  if (shutdown(channel->socket, SHUT_WR) < 0 ||
      recv(channel->socket, &end, 1, 0) != 0)
    err(1, "waiting for the receiver");
  return NULL;
}

/* ---- receiving ---- */

/* False at the end of the stream, which may only come where a packet would
 * begin. */
static bool receive_all(int fd, struct iovec *iov, size_t count, bool may_end) {
  for (bool begun = false; count > 0; begun = true) {
    struct msghdr message = {.msg_iov = iov, .msg_iovlen = count};
    const ssize_t got = recvmsg(fd, &message, MSG_WAITALL);
    if (got < 0)
      err(1, "recvmsg");
    if (got == 0) {
      if (begun || !may_end)
        errx(1, "the stream ended inside a packet");
      return false;
    }
    size_t left = (size_t)got;
    while (count > 0 && left >= iov->iov_len) {
      left -= iov->iov_len;
      iov++;
      count--;
    }
    if (count > 0) {
      iov->iov_base = (uint8_t *)iov->iov_base + left;
      iov->iov_len -= left;
    }
  }
  return true;
}

/* One iovec per run of normal pages: addresses in the mapping where pages go
 * there, else offsets in the file. */
static size_t runs_of(const struct head *head, struct iovec *runs) {
  size_t count = 0;
  bool in_run = false;
  for (uint64_t i = 0; i < PACKET_PAGES; i++) {
    if ((head->normal[i / 64] >> (i % 64) & 1) == 0) {
      in_run = false;
      continue;
    }
    const uint64_t offset = (head->packet * PACKET_PAGES + i) * PAGE_BYTES;
    if (in_run)
      runs[count - 1].iov_len += PAGE_BYTES;
    else
      runs[count++] = (struct iovec){
          (void *)((fresh < 0 ? (uintptr_t)ram : 0) + offset), PAGE_BYTES};
    in_run = true;
  }
  return count;
}

static void place(uint64_t offset, const uint8_t *bytes, size_t count) {
  if (fresh < 0) {
    if (pwrite(ram_file, bytes, count, (off_t)offset) != (ssize_t)count)
      err(1, "pwrite");
    return;
  }
  struct uffdio_copy copy = {.dst = (uintptr_t)ram + offset,
                             .src = (uintptr_t)bytes,
                             .len = count,
                             .mode = UFFDIO_COPY_MODE_DONTWAKE};
  if (ioctl(fresh, UFFDIO_COPY, &copy) < 0)
    err(1, "UFFDIO_COPY");
}

/* Fills the stage as often as the runs need it, and writes it out run by run.
 */
static void receive_through_stage(int fd, struct iovec *runs, size_t count,
                                  uint8_t *stage) {
  size_t left = 0;
  for (size_t i = 0; i < count; i++)
    left += runs[i].iov_len;
  for (size_t i = 0; left > 0;) {
    const size_t filled = left < STAGE_BYTES ? left : STAGE_BYTES;
    struct iovec whole = {stage, filled};
    receive_all(fd, &whole, 1, false);
    left -= filled;
    for (size_t at = 0; at < filled;) {
      const size_t bytes =
          runs[i].iov_len < filled - at ? runs[i].iov_len : filled - at;
      place((uintptr_t)runs[i].iov_base, stage + at, bytes);
      at += bytes;
      runs[i].iov_base = (uint8_t *)runs[i].iov_base + bytes;
      runs[i].iov_len -= bytes;
      if (runs[i].iov_len == 0)
        i++;
    }
  }
}

static void *receive_channel(void *argument) {
  struct channel *const channel = argument;
  uint8_t *const stage = aligned_alloc(PAGE_BYTES, STAGE_BYTES);
  if (stage == NULL)
    err(1, "the stage");
  struct iovec runs[PACKET_PAGES];
  for (;;) {
    struct head head;
    struct iovec whole = {&head, sizeof head};
    if (!receive_all(channel->socket, &whole, 1, true))
      break;
    channel->wire_bytes += sizeof head;
    if ((head.packet + 1) * PACKET_PAGES * PAGE_BYTES > ram_bytes)
      errx(1, "packet %llu lies past the end of the file",
           (unsigned long long)head.packet);
    const size_t count = runs_of(&head, runs);
    for (size_t i = 0; i < count; i++)
      channel->wire_bytes += runs[i].iov_len;
    if (ram == NULL || fresh >= 0)
      receive_through_stage(channel->socket, runs, count, stage);
    else
      receive_all(channel->socket, runs, count, false);
  }
  free(stage);
  close(channel->socket);
  return NULL;
}

/* ---- both ---- */

static double seconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static double cpu_seconds(void) {
  struct rusage used;
  getrusage(RUSAGE_SELF, &used);
  return (double)(used.ru_utime.tv_sec + used.ru_stime.tv_sec) +
         (double)(used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6;
}

static uint64_t run_channels(struct channel *channels, int count,
                             void *(*run)(void *)) {
  uint64_t wire_bytes = 0;
  for (int i = 0; i < count; i++)
    if (pthread_create(&channels[i].thread, NULL, run, &channels[i]) != 0)
      errx(1, "cannot start a thread");
  for (int i = 0; i < count; i++) {
    pthread_join(channels[i].thread, NULL);
    wire_bytes += channels[i].wire_bytes;
  }
  return wire_bytes;
}

static void map_ram(int protection) {
  ram = mmap(NULL, ram_bytes, protection, MAP_SHARED, ram_file, 0);
  if (ram == MAP_FAILED)
    err(1, "mapping RAM");
}

static void register_fresh(void) {
  fresh = (int)syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY);
  struct uffdio_api api = {.api = UFFD_API};
  struct uffdio_register range = {.range = {(uintptr_t)ram, ram_bytes},
                                  .mode = UFFDIO_REGISTER_MODE_MISSING};
  if (fresh < 0 || ioctl(fresh, UFFDIO_API, &api) < 0 ||
      ioctl(fresh, UFFDIO_REGISTER, &range) < 0)
    err(1, "userfaultfd");
}

static void send_image(const char *to, int count, const char *path,
                       const char *through) {
  struct stat image;
  ram_file = open(path, O_RDONLY);
  if (ram_file < 0 || fstat(ram_file, &image) < 0)
    err(1, "%s", path);
  ram_bytes = (uint64_t)image.st_size;
  const double cpu = cpu_seconds(), start = seconds();
  if (strcmp(through, "mapping") == 0)
    map_ram(PROT_READ);
  struct channel channels[CHANNELS_MAX] = {0};
  for (int i = 0; i < count; i++)
    channels[i].socket = connect_to(to);
  printf("{\"event\":\"connected\"}\n");
  const uint64_t wire_bytes = run_channels(channels, count, send_channel);
  printf("{\"event\":\"completed\",\"totalMs\":%.1f,\"wireBytes\":%llu,"
         "\"cpuSeconds\":%.3f}\n",
         (seconds() - start) * 1000, (unsigned long long)wire_bytes,
         cpu_seconds() - cpu);
}

static void receive_image(const char *at, int count, const char *path,
                          uint64_t bytes, const char *through) {
  if (bytes % (PACKET_PAGES * PAGE_BYTES) != 0)
    errx(2, "%llu bytes are no whole number of packets",
         (unsigned long long)bytes);
  ram_bytes = bytes;
  ram_file = open(path, O_RDWR | O_CREAT | O_EXCL, 0600);
  if (ram_file < 0 || ftruncate(ram_file, (off_t)bytes) < 0)
    err(1, "%s", path);
  if (strcmp(through, "file") != 0)
    map_ram(PROT_READ | PROT_WRITE);
  if (strcmp(through, "fresh") == 0)
    register_fresh();
  const int listener = listen_at(at, count);
  struct channel channels[CHANNELS_MAX] = {0};
  for (int i = 0; i < count; i++) {
    channels[i].socket = accept(listener, NULL, NULL);
    if (channels[i].socket < 0)
      err(1, "accept");
  }
  const double cpu = cpu_seconds(), start = seconds();
  const uint64_t wire_bytes = run_channels(channels, count, receive_channel);
  printf("{\"event\":\"completed\",\"totalMs\":%.1f,\"wireBytes\":%llu,"
         "\"cpuSeconds\":%.3f}\n",
         (seconds() - start) * 1000, (unsigned long long)wire_bytes,
         cpu_seconds() - cpu);
}

int main(int count, char **words) {
  setvbuf(stdout, NULL, _IOLBF, 0);
  const int channels = count > 3 ? atoi(words[3]) : 0;
  if (channels >= 1 && channels <= CHANNELS_MAX && count == 6 &&
      strcmp(words[1], "send") == 0)
    send_image(words[2], channels, words[4], words[5]);
  else if (channels >= 1 && channels <= CHANNELS_MAX && count == 7 &&
           strcmp(words[1], "receive") == 0)
    receive_image(words[2], channels, words[4], strtoull(words[5], NULL, 10),
                  words[6]);
  else
    errx(2, "raw-ceiling send TO CHANNELS FILE mapping|file | raw-ceiling "
            "receive AT CHANNELS FILE BYTES mapping|file|fresh");
  char ignored;
  while (read(0, &ignored, 1) > 0)
    continue;
  return 0;
}
