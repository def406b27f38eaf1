/**
 * Destination jobs: what a migration from Cloud Hypervisor is told, and whom it fills.
 */
import type { Address, TlsListenTerms } from "@multifd/channel";
import type { EventSink, RamPlacement, RangeThreads } from "@multifd/engine";
import type { RamBlock } from "@multifd/memory";
import type { Era, MemoryMapping, MemoryRangeTable } from "@multifd/protocol";
import type { MemoryMap } from "./memory-map.js";

/** A RAM block that came as a descriptor. */
export type AdoptedRam = {
  readonly block: RamBlock;
  readonly slot: number;
  /** The source's own file, open for reading and writing; several slots may share one. */
  readonly descriptor: number;
  /** Where the block begins in it. */
  readonly offsetBytes: number;
};

/** The guest that is to be. Called in the order of the members here; any rejection fails the migration. */
export interface CloudHypervisorDestinationGuest {
  /** Config has come: its bytes, and where RAM lies. */
  loadConfig(config: Uint8Array, map: MemoryMap): Promise<void>;
  /** RAM comes over the stream: where each block goes. One that may hold data already is cleared first. */
  placeRam(blocks: readonly RamBlock[]): Promise<readonly RamPlacement[]>;
  /** Set where RAM only passes through: some of a Memory command's ranges are in, and no more is read before this resolves. */
  partIn?(table: MemoryRangeTable): Promise<void>;
  /** The same: a whole Memory command is in, and answered when this resolves. */
  memoryIn?(): Promise<void>;
  /**
   * RAM came as descriptors instead. They are the guest's to close from here on. The source's guest may run in
   * them until `commit`: whoever wants the last word of it reads then, and nobody writes before.
   */
  adoptRam(ram: readonly AdoptedRam[]): Promise<void>;
  /** State has come. */
  loadState(state: Uint8Array): Promise<void>;
  /**
   * Everything is in: take the guest over. Only when this resolves is the source told, and the guest is lost to it.
   * Rejects with ACKNOWLEDGEMENT_LOST where nobody knows whether it runs: the source is told nothing then.
   */
  commit(how: "resume" | "leave-paused"): Promise<void>;
  /** The migration failed: nothing may be mistaken for a guest, and none may run here. Never rejects. */
  abandon(): Promise<void>;
}

export type CloudHypervisorDestinationLimits = {
  readonly configBytesMax: number;
  readonly stateBytesMax: number;
  /** Of one range table: 16 bytes a range. */
  readonly tableBytesMax: number;
};

export const DESTINATION_LIMITS: CloudHypervisorDestinationLimits = {
  configBytesMax: 16 * 2 ** 20,
  stateBytesMax: 256 * 2 ** 20,
  tableBytesMax: 64 * 2 ** 20,
};

export type CloudHypervisorDestinationJob = {
  readonly guest: CloudHypervisorDestinationGuest;
  readonly address: Address;
  /**
   * Whose commands and versions are taken. The newest takes every source; additional channels are told apart by their
   * first bytes, whether they say a role (from v53 on) or begin with a command.
   */
  readonly era: Era;
  /** Must be what the source was told. `stream` takes descriptors too, if they come. */
  readonly memory: "stream" | "on-demand";
  /** Where RAM lies, where the source's configuration does not tell. */
  readonly mappings?: readonly MemoryMapping[];
  /**
   * Also takes descriptors as the text of the protocol has them and no release sends them: behind Config, with 16-bit
   * slots. RAM is placed no sooner than its first byte comes then.
   */
  readonly lenientDescriptors: boolean;
  /** Additional channels to be ready for; more are taken as they come. */
  readonly channels: number;
  readonly tls?: TlsListenTerms;
  /** For a TLS handshake, for what an additional channel says first, and for the fault channel. */
  readonly handshakeTimeoutMs: number;
  /** Without a sign of life for this long, once connected, the migration fails; 0 waits for ever. */
  readonly stallTimeoutMs: number;
  readonly limits?: CloudHypervisorDestinationLimits;
  readonly onEvent: EventSink;
  readonly signal?: AbortSignal;
  /** Threads that outlive this migration; its own unless given. */
  readonly threads?: RangeThreads;
};
