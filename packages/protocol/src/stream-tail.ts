/**
 * Stream tail: device sections and VM description, from the end of RAM to the stream's own end.
 *
 * Neither a length nor a closed connection marks the end: device sections say
 * nothing of their size, and with a return path the source keeps the
 * connection open and waits for us. So the bytes are kept, and every place
 * that looks like the end (00, 06, a length, text in braces) is tried: the
 * text must be a VM description, and the walk with it must account for every
 * byte before. A guest may plant lookalikes in its device state; they fail
 * the walk, and since something follows them the search goes on.
 *
 * Source: QEMU 10.2, migration/savevm.c, qemu_savevm_state_complete_precopy_non_iterable().
 */

import { walkDeviceSections } from "./device-sections.js";
import { ProtocolError } from "./errors.js";
import { viewOf } from "./layout.js";
import type { MainEvent, MainStreamLimits, TailCheck } from "./main-events.js";
import { SECTION_DESCRIPTION, SECTION_EOF } from "./main-stream.js";
import type { StreamReader } from "./stream-reader.js";
import { parseVmDescription } from "./vm-description.js";
import { decodeText } from "./wire-text.js";

const WHAT = "device state";
const BRACE_OPEN = 0x7b;
const BRACE_CLOSE = 0x7d;

/** The end-of-stream byte, and the description's behind it. */
const END_MARK = Buffer.of(SECTION_EOF, SECTION_DESCRIPTION);
/** Bytes between the end-of-stream byte and the description. */
const END_BYTES = 6;

/** Places that may be tried; an honest stream has one. */
const CANDIDATES_MAX = 256;

type Candidate = { readonly at: number; readonly end: number };

/**
 * Reads the tail behind its first byte, which `firstType` is. Bytes that
 * arrive together with the end but lie behind it are dropped: nothing is due there.
 *
 * @throws {ProtocolError} STREAM_TAIL_SIZE, or what the walk and the description refuse.
 */
export async function decodeStreamTail(
  reader: StreamReader,
  firstType: number,
  limits: MainStreamLimits,
  check: TailCheck,
): Promise<Extract<MainEvent, { kind: "devices" }>> {
  const { source } = reader;
  const startsAt = source.position - 1;
  const tail = new GrowingBytes(firstType);
  let scanned = 0;
  let tried = 0;
  let waiting: Candidate[] = [];
  for (;;) {
    await reader.need(1, WHAT);
    const room = limits.deviceBytesMax - tail.length;
    if (room === 0)
      throw reader.refused(
        "STREAM_TAIL_SIZE",
        WHAT,
        `device sections and description are longer than ${limits.deviceBytesMax} bytes; raise the limit, or let devices send their state on the channels`,
      );
    tail.append(source.take(Math.min(source.available, room)));
    const bytes = tail.bytes();
    const found = findCandidates(bytes, scanned, limits);
    scanned = Math.max(scanned, bytes.length - END_BYTES);
    tried += found.length;
    if (tried > CANDIDATES_MAX)
      throw reader.refused(
        "STREAM_TAIL_SIZE",
        WHAT,
        `more than ${CANDIDATES_MAX} places look like the end; the stream is hostile`,
      );
    const complete = [...waiting, ...found].filter(({ end }) => end <= bytes.length);
    waiting = [...waiting, ...found].filter(({ end }) => end > bytes.length);
    for (const candidate of complete) {
      // Only a recording has an end that can be asked for without waiting on the sender.
      const isEnd = check === "described" && candidate.end === bytes.length && !(await source.fill(1));
      const description = tryCandidate(bytes, candidate, isEnd ? "described" : "walked");
      if (description !== null)
        return { kind: "devices", at: startsAt, bytes: bytes.slice(0, candidate.end), description };
    }
  }
}

/** @returns The description if the stream ends here, null if something follows and the search must go on. */
function tryCandidate(bytes: Uint8Array, { at, end }: Candidate, check: TailCheck): string | null {
  if (bytes[end - 1] !== BRACE_CLOSE) return null;
  try {
    const description = decodeText(bytes.subarray(at + END_BYTES, end), "VM description");
    const parsed = parseVmDescription(description);
    if (check === "described") return description;
    const walked = walkDeviceSections(bytes.subarray(0, at + 1), parsed);
    return walked.end === at ? description : null;
  } catch (error) {
    // Nothing follows: this was meant to be the end, and waiting for more would be for ever.
    if (end === bytes.length || !(error instanceof ProtocolError)) throw error;
    return null;
  }
}

function findCandidates(bytes: Uint8Array, from: number, limits: MainStreamLimits): Candidate[] {
  const view = viewOf(bytes);
  const searched = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length);
  const candidates: Candidate[] = [];
  for (let at = searched.indexOf(END_MARK, from); at >= 0; at = searched.indexOf(END_MARK, at + 1)) {
    if (at + END_BYTES >= bytes.length) break;
    if (bytes[at + END_BYTES] !== BRACE_OPEN) continue;
    const length = view.getUint32(at + 2);
    const end = at + END_BYTES + length;
    if (length >= 2 && length <= limits.descriptionBytesMax && end <= limits.deviceBytesMax)
      candidates.push({ at, end });
  }
  return candidates;
}

/** Bytes that grow by doubling, so that appending costs a bounded number of copies each. */
class GrowingBytes {
  #buffer: Uint8Array<ArrayBuffer> = new Uint8Array(65536);
  length = 1;

  constructor(first: number) {
    this.#buffer[0] = first;
  }

  append(more: Uint8Array): void {
    const due = this.length + more.length;
    if (due > this.#buffer.length) {
      const room = new Uint8Array(2 * due);
      room.set(this.bytes());
      this.#buffer = room;
    }
    this.#buffer.set(more, this.length);
    this.length = due;
  }

  /** A view, valid until the next `append`. */
  bytes(): Uint8Array {
    return this.#buffer.subarray(0, this.length);
  }
}
