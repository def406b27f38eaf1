/**
 * Device parts: what our source brings to a QEMU beside RAM, one per size of RAM.
 *
 * Taken once from a paused QEMU of the same version and machine, before anything
 * is measured. Its RAM is a hole that nobody keeps.
 */
import { rmSync } from "node:fs";
import { join } from "node:path";
import { createScratchDir, type QemuVersion, removeScratchDir, zeroImage } from "@multifd/test/peers";
import { findCodec } from "./codecs.js";
import { LOOPBACK, listenAddress, RAM_BLOCK } from "./endpoint.js";
import { startDestination } from "./event-endpoint.js";
import { heldCommand } from "./multifd-endpoint.js";
import { qemuSource } from "./qemu-endpoint.js";

const CHANNELS = 1;

/** @returns the path of the device part, in `dir`. */
export async function takeDevicePart(version: QemuVersion, ramBytes: number, dir: string): Promise<string> {
  const devicesPath = join(dir, `devices-${ramBytes}`);
  const [imagePath, receivedPath] = [join(dir, "hole"), join(dir, "hole-received")];
  const sockets = createScratchDir("disk");
  const codec = findCodec("none");
  const job = {
    codec,
    channels: CHANNELS,
    transport: "unix",
    host: LOOPBACK,
    ramBytes,
    receivedPath,
    dir: sockets,
  } as const;
  zeroImage(imagePath, ramBytes);
  try {
    const receiver = await startDestination(
      "multifd receive",
      process.execPath,
      heldCommand(
        ...["receive", "--json", "--channels", `${CHANNELS}`, "--listen", listenAddress(job)],
        ...["--ram", `${RAM_BLOCK}=${receivedPath}`, "--devices", devicesPath],
      ),
    );
    try {
      const terms = { codec, channels: CHANNELS, imagePath, ramBytes, ready: async () => {} };
      const source = qemuSource(version)(terms, receiver.address);
      await Promise.all([source, receiver.completed()]);
      return devicesPath;
    } finally {
      await receiver.stop();
    }
  } finally {
    for (const path of [imagePath, receivedPath]) rmSync(path, { force: true });
    removeScratchDir(sockets);
  }
}
