/**
 * Relaying: our relay, in this process, between a real source and whatever takes the migration.
 */
import { type Address, parseAddress } from "@multifd/channel";
import { type MigrationEvent, type RelayResult, runRelay } from "@multifd/engine";
import { QemuRelayPeer } from "@multifd/peer-qemu";
import type { Compression } from "@multifd/protocol";

export type RelayOptions = {
  readonly listen: string;
  readonly to: string;
  readonly channels: number;
  readonly compression: Compression;
  readonly toChannels: number;
  readonly toCompression: Compression;
  readonly stallTimeoutMs?: number;
  readonly signal?: AbortSignal;
};

export type RunningRelay = {
  /** As listened on: a tcp port 0 has become a real one. */
  readonly address: Address;
  readonly events: readonly MigrationEvent[];
  readonly result: Promise<RelayResult>;
};

/** Listens, and passes one migration on. `result` is handled: a test that awaits it late misses nothing. */
export async function startRelay(options: RelayOptions): Promise<RunningRelay> {
  const { channels, toChannels, compression, toCompression, stallTimeoutMs = 20_000, signal } = options;
  const peer = await QemuRelayPeer.listen(
    parseAddress(options.listen),
    { channels, compression, handshakeTimeoutMs: 10_000 },
    { address: parseAddress(options.to), channels: toChannels, connectTimeoutMs: 5000, compression: toCompression },
  );
  const events: MigrationEvent[] = [];
  const result = runRelay({
    peer,
    compression,
    toCompression,
    toLevel: 1,
    stallTimeoutMs,
    onEvent: (event) => events.push(event),
    ...(signal === undefined ? {} : { signal }),
  });
  result.catch(() => {});
  return { address: peer.address, events, result };
}
