/**
 * Saved guest: a boot guest brought into a snapshot and out of it again, for the tests that do so.
 */
import { formatAddress, parseAddress } from "@multifd/channel";
import { type DestinationGuest, type MigrationResult, runDestination, runSource } from "@multifd/engine";
import {
  CompressedWriter,
  MappedRamWriter,
  openSnapshot,
  QemuDestinationPeer,
  QemuSourcePeer,
  type SnapshotForm,
  storedGuest,
} from "@multifd/peer-qemu";
import type { QemuCompression } from "@multifd/protocol";
import type { QemuProcess } from "../peers/index.js";

export type Wire = { readonly socket: string; readonly channels: number; readonly compression: QemuCompression };

export function writerOf(form: SnapshotForm, path: string): DestinationGuest {
  return form === "compressed" ? new CompressedWriter(path, 1) : new MappedRamWriter(path);
}

/** Listens at `wire.socket` and takes one migration into `path`. */
export async function startSaver(form: SnapshotForm, path: string, wire: Wire) {
  const { channels, compression } = wire;
  const terms = { channels, handshakeTimeoutMs: 10_000 };
  const peer = await QemuDestinationPeer.listen(parseAddress(`unix:${wire.socket}`), terms);
  const result = runDestination({
    guest: writerOf(form, path),
    peer,
    compression,
    onEvent: () => {},
    stallTimeoutMs: 20_000,
  });
  result.catch(() => {});
  return { address: peer.address, result };
}

/** Lets a QEMU migrate into a snapshot. */
export async function save(vm: QemuProcess, form: SnapshotForm, path: string, wire: Wire): Promise<MigrationResult> {
  const saver = await startSaver(form, path, wire);
  // The guest dirties its RAM faster than some methods carry it: without patience it would never stop.
  await vm.setMigration({ channels: wire.channels, compression: wire.compression, downtimeLimitMs: 10_000 });
  await vm.migrateTo(formatAddress(saver.address));
  const outcome = await vm.waitMigration();
  if (outcome.status !== "completed") throw new Error(`QEMU: ${outcome.error}`);
  return saver.result;
}

/** Sends a snapshot, of whatever form and make, to a destination that listens at `wire.socket`. */
export async function restore(path: string, wire: Wire): Promise<MigrationResult> {
  const { socket, channels, compression } = wire;
  const snapshot = await openSnapshot(path);
  try {
    return await runSource({
      guest: storedGuest(snapshot),
      peer: new QemuSourcePeer({ address: parseAddress(`unix:${socket}`), channels, connectTimeoutMs: 5000 }),
      onEvent: () => {},
      compression,
      level: 1,
      devices: snapshot.devices,
      downtimeLimitMs: 300,
      maxBandwidth: 0,
      roundsMax: 1,
      atRoundLimit: "fail",
      stallTimeoutMs: 20_000,
    });
  } finally {
    await snapshot.close();
  }
}
