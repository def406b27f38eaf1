/**
 * Driven source: a QEMU that migrates to us, and that we may command besides.
 *
 * To refuse its stream means to have QEMU cancel, and to hang up when that has ended. Told
 * by a refusal and a broken link at once, like every other destination, QEMU 7.2 now and then
 * aborts (yank.c, yank_unregister_instance()), and its guest is gone.
 */
import type { DestinationPeer } from "@multifd/engine";
import type { QemuDestinationPeer } from "../destination-peer.js";

/** @param cancel  Resolves when QEMU's migration has ended, or will not. Never rejects. */
export function drivenSource(peer: QemuDestinationPeer, cancel: () => Promise<void>): DestinationPeer {
  return {
    name: peer.name,
    channels: peer.channels,
    packetMethods: null, // a QEMU has one for all
    get mainBytes() {
      return peer.mainBytes;
    },
    accept: (signal, onSurplus) => peer.accept(signal, onSurplus),
    words: () => peer.words(),
    acknowledge: () => peer.acknowledge(),
    refuse: async () => {
      await cancel();
      await peer.refuse();
    },
    close: () => peer.close(),
  };
}
