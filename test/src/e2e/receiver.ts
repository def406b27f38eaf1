/**
 * Receiver: our destination, in this process, for a real source to migrate into.
 */
import { type Address, parseAddress, type TlsListenTerms } from "@multifd/channel";
import { type MigrationEvent, type MigrationResult, RamFiles, runDestination } from "@multifd/engine";
import { QemuDestinationPeer, writeDeviceFile } from "@multifd/peer-qemu";
import type { Compression } from "@multifd/protocol";

export type ReceiverOptions = {
  readonly listen: string;
  readonly channels: number;
  readonly compression: Compression;
  /** File by RAM block. */
  readonly ram: Readonly<Record<string, string>>;
  /** Where the devices go; left out, they are dropped. */
  readonly devices?: string;
  readonly uuid?: Uint8Array;
  readonly handshakeTimeoutMs?: number;
  readonly stallTimeoutMs?: number;
  readonly signal?: AbortSignal;
  /** Left out: plain connections. */
  readonly tls?: TlsListenTerms;
};

export type Receiver = {
  /** As listened on: a tcp port 0 has become a real one. */
  readonly address: Address;
  readonly events: readonly MigrationEvent[];
  readonly result: Promise<MigrationResult>;
};

/** Listens, and takes one migration in. `result` is handled: a test that awaits it late misses nothing. */
export async function startReceiver(options: ReceiverOptions): Promise<Receiver> {
  const { channels, compression, devices, ram, uuid, signal, tls, handshakeTimeoutMs = 10_000 } = options;
  const terms = {
    channels,
    compression,
    handshakeTimeoutMs,
    ...(uuid === undefined ? {} : { uuid }),
    ...(tls && { tls }),
  };
  const peer = await QemuDestinationPeer.listen(parseAddress(options.listen), terms);
  const events: MigrationEvent[] = [];
  const save = devices === undefined ? null : writeDeviceFile.bind(null, devices);
  const result = runDestination({
    guest: new RamFiles(new Map(Object.entries(ram)), save),
    peer,
    compression,
    onEvent: (event) => events.push(event),
    stallTimeoutMs: options.stallTimeoutMs ?? 20_000,
    ...(signal === undefined ? {} : { signal }),
  });
  result.catch(() => {});
  return { address: peer.address, events, result };
}
