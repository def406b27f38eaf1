/**
 * Memory requests: what a front-end tells a back-end of the guest's memory, and of the log of its dirty pages.
 *
 * Owns nothing; descriptors stay the caller's.
 * Source: QEMU 11.1, docs/interop/vhost-user.rst, "Memory regions description", "Migration".
 */
import { ConfigError } from "@multifd/protocol";
import { type MemoryRegion, memoryTable, regionPayload } from "./memory-table.js";
import { decodeNumber, logDescription, NO_PAYLOAD, VHOST_USER_REGIONS_MAX } from "./messages.js";
import type { NegotiatedChannel } from "./negotiated-channel.js";

export class MemoryRequests {
  readonly #agreed: NegotiatedChannel;

  constructor(agreed: NegotiatedChannel) {
    this.#agreed = agreed;
  }

  async slots(): Promise<number> {
    this.#agreed.need("memorySlots", "asking for memory slots");
    return Number(decodeNumber((await this.#agreed.channel.request("GET_MAX_MEM_SLOTS", NO_PAYLOAD)).payload));
  }

  /**
   * Tells the guest's whole memory, in place of what was told before.
   *
   * Up to 8 regions go as a table; more are added one by one, where the back-end takes them so, to none.
   */
  async replace(regions: readonly MemoryRegion[]): Promise<void> {
    if (regions.length <= VHOST_USER_REGIONS_MAX) {
      const descriptors = regions.map((region) => region.descriptor);
      await this.#agreed.channel.request("SET_MEM_TABLE", memoryTable(regions), descriptors);
      return;
    }
    this.#agreed.need("memorySlots", `telling ${regions.length} memory regions`);
    const slots = await this.slots();
    if (regions.length > slots) {
      throw new ConfigError(
        "VHOST_MEMORY_SLOTS",
        `${this.#agreed.channel.name}: the guest has ${regions.length} memory regions, the back-end takes ${slots}`,
      );
    }
    for (const region of regions) await this.add(region);
  }

  async add(region: MemoryRegion): Promise<void> {
    this.#agreed.need("memorySlots", "adding memory");
    await this.#agreed.channel.request("ADD_MEM_REG", regionPayload(region), [region.descriptor]);
  }

  async remove(region: MemoryRegion): Promise<void> {
    this.#agreed.need("memorySlots", "removing memory");
    await this.#agreed.channel.request("REM_MEM_REG", regionPayload(region));
  }

  /** Gives the back-end a log of dirty pages; resolves when it writes there and nowhere else. */
  async setLog(lengthBytes: number, descriptor: number): Promise<void> {
    this.#agreed.need("logSharedMemory", "logging dirty pages");
    // The offset stays 0: it must be page-aligned, and DPDK adds it twice.
    const payload = logDescription.encode({ lengthBytes, offsetBytes: 0 });
    await this.#agreed.channel.request("SET_LOG_BASE", payload, [descriptor]);
  }

  /** An event descriptor to be signalled when something was logged. rust-vmm back-ends close the connection on it. */
  async setLogEvent(descriptor: number): Promise<void> {
    await this.#agreed.channel.request("SET_LOG_FD", NO_PAYLOAD, [descriptor]);
  }
}
