/**
 * Source jobs: what a migration to Cloud Hypervisor is told.
 */
import type { Address, TlsConnectTerms } from "@multifd/channel";
import type { EventSink, RangeThreads, SourceGuest } from "@multifd/engine";
import {
  CONNECTIONS_MAX,
  ConfigError,
  type Era,
  knowsCommand,
  type MemoryMapping,
  readMemoryMappings,
} from "@multifd/protocol";
import { MemoryMap } from "./memory-map.js";

export type CloudHypervisorSource = {
  /** Its RAM blocks bear the names that `describeMemory` gives for the configuration, whatever their order. */
  readonly guest: SourceGuest;
  /** Config's payload, sent byte for byte. */
  readonly config: Uint8Array;
  /** Where RAM lies, where `config` is not one that tells it. */
  readonly mappings?: readonly MemoryMapping[];
  /** Called once, when the guest is paused: State's payload, sent byte for byte. */
  readonly snapshot: () => Promise<Uint8Array>;
};

/** Whether the guest runs at the destination, or stands there until somebody resumes it. */
export type HandOver = "resume" | "leave-paused";

export type CloudHypervisorSourceJob = {
  readonly source: CloudHypervisorSource;
  readonly address: Address;
  /** Of the destination; decides what it is sent, and how. */
  readonly era: Era;
  /**
   * How RAM gets there: over the stream while the guest runs; as descriptors, to a destination on this machine that maps the
   * same files; or on demand, once the guest is paused here, to a destination that was told so.
   */
  readonly memory: "stream" | "descriptors" | "on-demand";
  /** More than one: so many additional channels carry the RAM. */
  readonly channels: number;
  /** What the destination does with the guest in the end; a function is asked once the destination has loaded it. */
  readonly handOver: HandOver | (() => Promise<HandOver>);
  readonly tls?: TlsConnectTerms;
  readonly connectTimeoutMs: number;
  /** Without a sign of life for this long the migration fails; 0 waits for ever. */
  readonly stallTimeoutMs: number;
  readonly downtimeLimitMs: number;
  /** Passes while the guest runs, where the era has no number of its own. */
  readonly roundsMax: number;
  readonly atRoundLimit: "fail" | "switchover";
  /** Bytes per second over all channels, until the guest is paused; 0 for no limit. */
  readonly maxBandwidth: number;
  readonly onEvent: EventSink;
  readonly signal?: AbortSignal;
  /** Threads that outlive this migration; its own unless given. */
  readonly threads?: RangeThreads;
};

/** Where the RAM of a configuration lies, and what its blocks are called. @throws {ProtocolError} CONFIG_JSON, CONFIG_MEMORY. */
export function describeMemory(config: Uint8Array): MemoryMap {
  return new MemoryMap(readMemoryMappings(config));
}

/** The source's RAM in the order of the map's blocks. @throws {ConfigError} RAM_BLOCK_UNKNOWN, RAM_SIZE_MISMATCH, RAM_FORM. */
export function matchRam({ guest }: CloudHypervisorSource, map: MemoryMap): SourceGuest["ram"] {
  const names = new Set(map.blocks.map(({ block }) => block.name));
  const foreign = guest.ram.find(({ block }) => !names.has(block.name));
  if (foreign !== undefined) {
    const known = [...names].map((name) => `"${name}"`).join(", ");
    throw new ConfigError(
      "RAM_BLOCK_UNKNOWN",
      `the configuration has no RAM block "${foreign.block.name}"; it has ${known}`,
    );
  }
  return map.blocks.map(({ block }) => {
    const found = guest.ram.find((ram) => ram.block.name === block.name);
    if (found === undefined)
      throw new ConfigError(
        "RAM_BLOCK_UNKNOWN",
        `nothing is given for RAM block "${block.name}" of ${block.lengthBytes} bytes`,
      );
    const { lengthBytes, pageBytes } = found.block;
    if (lengthBytes !== block.lengthBytes || pageBytes !== block.pageBytes)
      throw new ConfigError(
        "RAM_SIZE_MISMATCH",
        `RAM block "${block.name}" has ${lengthBytes} bytes in pages of ${pageBytes}, the configuration has ${block.lengthBytes} in pages of ${block.pageBytes}`,
      );
    if (found.pageMap !== undefined || found.present !== undefined || found.sharedAt !== undefined)
      throw new ConfigError(
        "RAM_FORM",
        `RAM block "${block.name}" is in a file of another protocol's; convert it first`,
      );
    return found;
  });
}

/** @throws {ConfigError} CLOUD_HYPERVISOR_TERMS, for what this era or kind of address does not know. */
export function checkSourceTerms(job: CloudHypervisorSourceJob, map: MemoryMap): void {
  const { era, memory, channels, handOver, tls, address } = job;
  const refuse = (what: string) => {
    throw new ConfigError("CLOUD_HYPERVISOR_TERMS", what);
  };
  const release = `Cloud Hypervisor ${era.releases}`;
  if (!(Number.isInteger(channels) && channels >= 1 && channels <= CONNECTIONS_MAX))
    refuse(`${channels} channels were asked for, 1 to ${CONNECTIONS_MAX} go`);
  if (address.kind === "tcp" && !era.tcp) refuse(`${release} listens on unix sockets only; tcp came with v43`);
  if (channels > 1 && (era.connections === "none" || memory !== "stream"))
    refuse(`${channels} channels carry RAM over the stream to v52 and newer; give one`);
  if (tls !== undefined && !era.tls) refuse(`${release} has no TLS; it came with v53`);
  if (memory === "descriptors") {
    if (address.kind !== "unix" || tls !== undefined) refuse("descriptors pass over a plain unix socket only");
    if (!knowsCommand(era, "memoryFd")) refuse(`${release} takes no descriptors; v21 does`);
    if (map.blocks.some(({ slot }) => slot === null))
      refuse("the configuration gives RAM no slots, which descriptors are passed by");
  }
  if (memory === "on-demand" && !era.pageFaults) refuse(`${release} asks for no pages; v53 does`);
  if (typeof handOver === "string") checkHandOver(era, handOver);
}

/** @throws {ConfigError} CLOUD_HYPERVISOR_TERMS. */
export function checkHandOver(era: Era, how: HandOver): void {
  if (how === "resume" || knowsCommand(era, "completePaused")) return;
  throw new ConfigError(
    "CLOUD_HYPERVISOR_TERMS",
    `Cloud Hypervisor ${era.releases} always resumes the guest; v52 and newer can leave it paused`,
  );
}
