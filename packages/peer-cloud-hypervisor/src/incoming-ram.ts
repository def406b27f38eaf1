/**
 * Incoming RAM: what every channel of a destination writes into.
 *
 * Memory commands may come on any channel. Each is checked as a whole, to its last
 * range, before one byte of it is placed, and answered only when all of them
 * are in.
 */
import { PlacedRam, type RamPlacement, type RangeThread } from "@multifd/engine";
import { punchFile } from "@multifd/native";
import {
  checkRangeTableLength,
  encodeRequest,
  MemoryRangeTable,
  PAGE_FAULT_BYTES,
  ProtocolError,
  RESPONSE_BYTES,
  takeResponse,
} from "@multifd/protocol";
import type { CloudHypervisorDestinationGuest } from "./destination-job.js";
import { receiveExact } from "./exchange.js";
import { type MemoryMap, PAGE_BYTES } from "./memory-map.js";

/** Guest RAM asked for at a time, where it comes on demand. */
const FETCH_BYTES = 2 ** 21;

/** Of RAM that passes through: what is read before it has to be on its way. */
const PART_BYTES = 2 ** 23;

type Passing = Pick<CloudHypervisorDestinationGuest, "partIn" | "memoryIn">;

export class IncomingRam {
  readonly #map: MemoryMap;
  readonly #placed: PlacedRam;
  readonly #tableBytesMax: number;
  readonly #passing: Passing;
  #receivedBytes = 0;

  /**
   * @param placements  As the map's blocks; the files stay their guest's.
   * @param passing     Whom to tell of RAM that is to be passed on.
   */
  constructor(map: MemoryMap, placements: readonly RamPlacement[], tableBytesMax: number, passing: Passing) {
    this.#map = map;
    this.#passing = passing;
    this.#tableBytesMax = tableBytesMax;
    // What is absent from a sparse first pass must read as zero.
    for (const { block, descriptor, startsZeroed, fileOffsetBytes = 0 } of placements)
      if (!startsZeroed) punchFile(descriptor, fileOffsetBytes, block.lengthBytes);
    this.#placed = new PlacedRam(placements, PAGE_BYTES);
  }

  useBlocks(thread: RangeThread): void {
    thread.useBlocks(
      this.#placed.receiveBlocks().map(({ target }) => ({
        lengthBytes: Number(target.lengthBytes),
        file: target.file,
        fileOffsetBytes: Number(target.fileOffsetBytes),
        address: Number(target.address),
        fresh: target.fresh,
      })),
    );
  }

  /** @throws {ProtocolError} RANGE_TABLE_LENGTH, RANGE_TABLE_TOO_LARGE. */
  checkTableBytes(bytes: number): void {
    checkRangeTableLength(bytes);
    if (bytes > this.#tableBytesMax)
      throw new ProtocolError(
        "RANGE_TABLE_TOO_LARGE",
        `a memory range table of ${bytes} bytes was announced, at most ${this.#tableBytesMax} are taken`,
      );
  }

  /**
   * Takes a table of so many bytes, and the RAM behind it.
   *
   * @throws {ProtocolError} RANGE_OUTSIDE_RAM; {ChannelError} CHANNEL_CUT; {SystemError} what a RAM file answers.
   */
  async receive(thread: RangeThread, tableBytes: number): Promise<void> {
    const table = MemoryRangeTable.fromWire(await receiveExact(thread, tableBytes, "a memory range table"));
    this.#map.check(table);
    if (this.#passing.partIn === undefined) await this.#place(thread, table);
    else
      for (const part of inParts(table)) {
        await this.#place(thread, part);
        await this.#passing.partIn(part);
      }
    await this.#passing.memoryIn?.();
  }

  /** Asks for everything, on a fault channel, and places it as it comes: one request at a time, as on every channel. */
  async fetchAll(thread: RangeThread): Promise<void> {
    for (const { gpa, block } of this.#map.blocks) {
      for (let at = 0; at < block.lengthBytes; at += FETCH_BYTES)
        await this.#fetch(thread, gpa + at, Math.min(FETCH_BYTES, block.lengthBytes - at));
    }
  }

  async #fetch(thread: RangeThread, gpa: number, lengthBytes: number): Promise<void> {
    const table = MemoryRangeTable.empty();
    table.append(gpa, lengthBytes);
    const sent = thread.send(Buffer.concat([encodeRequest("pageFault", PAGE_FAULT_BYTES), table.bytes]));
    sent.catch(() => {}); // the missing answer tells
    const payloadBytes = takeResponse(await receiveExact(thread, RESPONSE_BYTES, "the answer to pageFault"), true);
    if (payloadBytes !== lengthBytes)
      throw new ProtocolError(
        "PAGE_FAULT_ANSWER",
        `${thread.name}: ${payloadBytes} bytes answer a page fault, ${lengthBytes} were due`,
      );
    await this.#place(thread, table);
  }

  async #place(thread: RangeThread, table: MemoryRangeTable): Promise<void> {
    let before: Promise<void> = Promise.resolve();
    for (const pieces of this.#map.pieces(table)) {
      // Once as much has come as there is RAM, pages are likely to be there already.
      const order = thread.receiveRanges(pieces, this.#receivedBytes < this.#map.ramBytes);
      order.catch(() => {}); // told by the await of the next turn, or not at all if an earlier one failed
      await before;
      before = order;
    }
    await before;
    this.#receivedBytes += Number(table.totalBytes());
  }

  close(): void {
    this.#placed.close();
  }
}

/** A table in tables of at most `PART_BYTES`, its bytes in the same order. */
function* inParts(table: MemoryRangeTable): Generator<MemoryRangeTable> {
  let part = MemoryRangeTable.empty();
  let room = PART_BYTES;
  const range = { gpa: 0, lengthBytes: 0 };
  for (let index = 0; index < table.count; index++) {
    table.readNumbers(index, range); // it has been checked against the map
    while (range.lengthBytes > 0) {
      const step = Math.min(room, range.lengthBytes);
      part.append(range.gpa, step);
      range.gpa += step;
      range.lengthBytes -= step;
      room -= step;
      if (room > 0) continue;
      yield part;
      part = MemoryRangeTable.empty();
      room = PART_BYTES;
    }
  }
  if (part.count > 0) yield part;
}
