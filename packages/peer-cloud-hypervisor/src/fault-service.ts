/**
 * Fault service: a paused source that hands out pages on demand.
 *
 * On a fault channel the destination asks: a PageFault with one range, answered by
 * so many bytes. It closes when it has everything. Only then may the source
 * forget its RAM, so every page that was asked for is noted: a channel that ends
 * with pages missing means a guest without them.
 * Source: Cloud Hypervisor 53.0, vmm/src/migration_transport.rs, postcopy.
 */
import type { RangeThread } from "@multifd/engine";
import { DirtyBitmap } from "@multifd/memory";
import {
  ChannelError,
  commandName,
  encodeResponse,
  MemoryRangeTable,
  migrationRequest,
  PAGE_FAULT_BYTES,
  ProtocolError,
  REQUEST_BYTES,
} from "@multifd/protocol";
import { receiveExact, receiveOrEnd } from "./exchange.js";
import { type MemoryMap, PAGE_BYTES } from "./memory-map.js";

/** What one request may ask for. */
const FAULT_BYTES_MAX = 2 ** 30;

export class FaultService {
  /** Resolves when the destination has closed with every page handed out. */
  readonly ended: Promise<void>;
  readonly #thread: RangeThread;
  readonly #map: MemoryMap;
  /** Per block: pages still to be asked for. */
  readonly #missing: readonly DirtyBitmap[];

  /** Serves from now on. @param thread  Attached and with the map's blocks; the caller's to shut down. */
  constructor(thread: RangeThread, map: MemoryMap) {
    this.#thread = thread;
    this.#map = map;
    this.#missing = map.blocks.map(({ block }) => new DirtyBitmap(block.pageCount));
    for (const bitmap of this.#missing) bitmap.fill();
    this.ended = this.#serve();
  }

  async #serve(): Promise<void> {
    for (;;) {
      const header = await receiveOrEnd(this.#thread, REQUEST_BYTES, "a page fault");
      if (header === null) break;
      const { command, payloadBytes } = migrationRequest.decode(header);
      const name = commandName(command);
      if (name === "abandon") {
        await this.#thread.send(encodeResponse("ok"));
        throw new ChannelError("ABANDONED", `${this.#thread.name}: the destination gave up asking for pages`);
      }
      if (name !== "pageFault" || payloadBytes !== PAGE_FAULT_BYTES)
        throw new ProtocolError(
          "PAGE_FAULT_FORM",
          `${this.#thread.name}: ${name ?? `command ${command}`} with ${payloadBytes} bytes came, pageFault with ${PAGE_FAULT_BYTES} was due`,
        );
      await this.#answer(MemoryRangeTable.fromWire(await receiveExact(this.#thread, PAGE_FAULT_BYTES, "a page fault")));
    }
    const pages = this.#missing.reduce((sum, bitmap) => sum + bitmap.count(), 0);
    if (pages > 0)
      throw new ChannelError(
        "CHANNEL_CUT",
        `${this.#thread.name}: the destination closed with ${pages} pages of ${PAGE_BYTES} bytes not asked for`,
      );
  }

  async #answer(table: MemoryRangeTable): Promise<void> {
    const { lengthBytes } = table.at(0);
    if (lengthBytes === 0n || lengthBytes > BigInt(FAULT_BYTES_MAX))
      throw new ProtocolError(
        "PAGE_FAULT_LENGTH",
        `${this.#thread.name}: a page fault asks for ${lengthBytes} bytes, 1 to ${FAULT_BYTES_MAX} go`,
      );
    const all = [...this.#map.pieces(table)];
    const orders = [this.#thread.send(encodeResponse("ok", Number(lengthBytes)))];
    for (const pieces of all) {
      this.#note(pieces);
      orders.push(this.#thread.sendRanges(pieces));
    }
    await Promise.all(orders);
  }

  /** Pages that a request covers in part only are not in yet. */
  #note(pieces: Float64Array): void {
    for (let at = 0; at < pieces.length; at += 3) {
      const { words } = this.#missing[pieces[at]!]!;
      const first = Math.ceil(pieces[at + 1]! / PAGE_BYTES);
      const end = Math.floor((pieces[at + 1]! + pieces[at + 2]!) / PAGE_BYTES);
      for (let page = first; page < end; page++) words[page >>> 5]! &= ~(1 << (page & 31));
    }
  }
}
