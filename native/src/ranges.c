/*
 * Ranges: guest RAM as a bare run of bytes, with nothing between one range and the next.
 *
 * Cloud Hypervisor sends RAM like that: a table of ranges, then their bytes back to
 * back. So what passes through the stage has no regard for where ranges end: a
 * hundred scattered pages are one send, and one recv. Every range meets its
 * block's length before a byte moves.
 */
#include "internal.h"

_Static_assert(sizeof(struct mfd_range) == 48, "range-block.ts counts on it");
_Static_assert(offsetof(struct mfd_ranges, ranges) == 64, "range-block.ts counts on it");
_Static_assert(offsetof(struct mfd_ranges, stage) == 49216, "range-block.ts counts on it");
_Static_assert(sizeof(struct mfd_ranges) == 311360, "range-block.ts allocates it");
_Static_assert(sizeof(((struct mfd_ranges *)0)->stage) == MFD_STAGE_BYTES, "one stage");

/* Checks one range, and where it is read from or goes to. Sets *offset (in the block) and *bytes. 0 or
 * MFD_E_*. */
static int64_t check_range(const struct mfd_range *range, uint64_t *offset, uint64_t *bytes) {
  uint64_t address, length, file_offset;
  if (!mfd_size(range->address, &address) || !mfd_size(range->length, &length) ||
      !mfd_size(range->file_offset, &file_offset) || !mfd_size(range->offset, offset) ||
      !mfd_size(range->bytes, bytes))
    return MFD_E_ARGUMENT;
  if (address + length > MFD_ADDRESS_MAX || file_offset + length > MFD_ADDRESS_MAX)
    return MFD_E_ARGUMENT;
  if (range->file < 0 && address == 0)
    return MFD_E_ARGUMENT;
  return *offset > length || *bytes > length - *offset ? MFD_E_OUTSIDE : 0;
}

static int64_t check_all(const struct mfd_ranges *work, bool from_files) {
  if (work == NULL || work->count > MFD_RANGES_MAX)
    return MFD_E_ARGUMENT;
  for (uint32_t i = 0; i < work->count; i++) {
    uint64_t offset, bytes;
    if (from_files && work->ranges[i].file < 0)
      return MFD_E_ARGUMENT;
    const int64_t checked = check_range(&work->ranges[i], &offset, &bytes);
    if (checked < 0)
      return checked;
  }
  return 0;
}

int64_t mfd_send_ranges(struct mfd_ranges *work) {
  const int64_t checked = check_all(work, true);
  if (checked < 0)
    return checked;
  int64_t total = 0;
  size_t filled = 0;
  for (uint32_t i = 0; i < work->count; i++) {
    const struct mfd_range *const range = &work->ranges[i];
    uint64_t offset = (uint64_t)(range->file_offset + range->offset);
    uint64_t left = (uint64_t)range->bytes;
    while (left > 0) {
      const size_t room = MFD_STAGE_BYTES - filled;
      const size_t step = left < room ? (size_t)left : room;
      int64_t result = mfd_pread_all(range->file, work->stage + filled, step, offset);
      if (result < 0)
        return result;
      filled += step;
      offset += step;
      left -= step;
      if (filled < MFD_STAGE_BYTES)
        continue;
      struct iovec iov = {work->stage, filled};
      result = mfd_send_all(work->socket, &iov, 1);
      if (result < 0)
        return result;
      total += result;
      filled = 0;
    }
  }
  struct iovec iov = {work->stage, filled};
  const int64_t result = mfd_send_all(work->socket, &iov, 1);
  return result < 0 ? result : total + result;
}

/* Writes `filled` bytes of the stage, from range *index and *done bytes into it on; both move along. */
static int64_t place_stage(const struct mfd_ranges *work, size_t filled, uint32_t *index, uint64_t *done) {
  const uint8_t *from = work->stage;
  while (filled > 0) {
    const struct mfd_range *const range = &work->ranges[*index];
    const uint64_t left = (uint64_t)range->bytes - *done;
    const size_t step = left < filled ? (size_t)left : filled;
    if (step > 0) {
      const int64_t result = mfd_place_bytes(&(struct mfd_place){.address = (uint64_t)range->address,
                                                                 .file_offset = (uint64_t)range->file_offset,
                                                                 .file = range->file,
                                                                 .fresh = range->fresh},
                                             (uint64_t)range->offset + *done, from, step);
      if (result < 0)
        return result;
    }
    from += step;
    filled -= step;
    *done += step;
    if (*done == (uint64_t)range->bytes) {
      (*index)++;
      *done = 0;
    }
  }
  return 0;
}

int64_t mfd_receive_ranges(struct mfd_ranges *work) {
  const int64_t checked = check_all(work, false);
  if (checked < 0)
    return checked;
  uint64_t left = 0;
  for (uint32_t i = 0; i < work->count; i++) {
    left += (uint64_t)work->ranges[i].bytes;
    if (left > MFD_ADDRESS_MAX)
      return MFD_E_ARGUMENT;
  }
  const int64_t total = (int64_t)left;
  uint32_t index = 0;
  uint64_t done = 0;
  while (left > 0) {
    const size_t step = left < MFD_STAGE_BYTES ? (size_t)left : MFD_STAGE_BYTES;
    int64_t result = mfd_receive_exact(work->socket, work->stage, step);
    if (result >= 0)
      result = place_stage(work, step, &index, &done);
    if (result < 0)
      return result;
    left -= step;
  }
  return total;
}
