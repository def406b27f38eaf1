/**
 * Guest memory as back-ends are told of it.
 *
 * A region is a run of guest-physical addresses in a file that both processes
 * map. User addresses only translate ring addresses, so they need not be anybody's
 * pointers: ours are the guest-physical address plus a constant that no guest reaches.
 */
import { ConfigError } from "@multifd/protocol";
import { memoryRegion, memoryTableHead, singleRegionPad } from "./messages.js";

export type MemoryRegion = {
  readonly guestAddress: number;
  readonly lengthBytes: number;
  /** Open for reading and writing, shared; stays the caller's. */
  readonly descriptor: number;
  /** Where the region begins in that file. */
  readonly offsetBytes: number;
};

/** Above every guest-physical address in use, below the 2^47 of user addresses. */
const USER_ADDRESS_BASE = 2 ** 46;

/** What rings' addresses are told in. */
export function userAddress(guestAddress: number): number {
  return USER_ADDRESS_BASE + guestAddress;
}

/** @throws {ConfigError} VHOST_MEMORY_REGION, if regions overlap, are empty or lie too high. */
export function checkRegions(regions: readonly MemoryRegion[]): void {
  const sorted = [...regions].sort((a, b) => a.guestAddress - b.guestAddress);
  let end = 0;
  for (const { guestAddress, lengthBytes } of sorted) {
    if (guestAddress < end || lengthBytes <= 0 || guestAddress + lengthBytes > USER_ADDRESS_BASE) {
      throw new ConfigError(
        "VHOST_MEMORY_REGION",
        `memory region 0x${guestAddress.toString(16)} of ${lengthBytes} bytes is empty, overlaps another, or ends above 2^46`,
      );
    }
    end = guestAddress + lengthBytes;
  }
}

/** SET_MEM_TABLE's payload; descriptors go in the same order. */
export function memoryTable(regions: readonly MemoryRegion[]): Uint8Array {
  const table = new Uint8Array(memoryTableHead.size + regions.length * memoryRegion.size);
  table.set(memoryTableHead.encode({ regions: regions.length }));
  for (const [index, region] of regions.entries()) {
    table.set(encodeRegion(region), memoryTableHead.size + index * memoryRegion.size);
  }
  return table;
}

/** The payload of ADD_MEM_REG and REM_MEM_REG. */
export function regionPayload(region: MemoryRegion): Uint8Array {
  const payload = new Uint8Array(singleRegionPad.size + memoryRegion.size);
  payload.set(encodeRegion(region), singleRegionPad.size);
  return payload;
}

function encodeRegion(region: MemoryRegion): Uint8Array {
  return memoryRegion.encode({ ...region, userAddress: userAddress(region.guestAddress) });
}
