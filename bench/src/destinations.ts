/**
 * Destinations: the programs that take a migration in, by kind, and the place where they do.
 *
 * A place starts a destination for every migration, says whether what came in is
 * the image, and removes it. This machine is one; `remote/` makes another one
 * out of a harness that listens on another machine.
 */
import { rmSync } from "node:fs";
import { dirname } from "node:path";
import { assertSameBytes, createScratchDir, type QemuVersion, removeScratchDir } from "@multifd/test/peers";
import type { Codec } from "./codecs.js";
import { type Destination, type DestinationProgram, LOOPBACK, type Transport } from "./endpoint.js";
import { multifdDestination } from "./multifd-endpoint.js";
import { qemuDestination } from "./qemu-endpoint.js";
import { rawDestination } from "./raw-endpoint.js";
import { warmMemory } from "./warm-memory.js";

const kinds = ["multifd", "qemu", "raw-mapping", "raw-file", "raw-fresh"] as const;
export type DestinationKind = (typeof kinds)[number];

export function isDestinationKind(text: unknown): text is DestinationKind {
  return kinds.some((kind) => kind === text);
}

/** What a destination is told of a migration. */
export type Arrival = {
  readonly kind: DestinationKind;
  readonly codec: Codec;
  readonly channels: number;
  readonly transport: Transport;
  readonly ramBytes: number;
};

export type ArrivedDestination = Destination & {
  /** Makes the memory warm that its RAM will take, so that none is measured by who came before it. */
  readonly warm: () => Promise<void>;
  /** Once completed. @throws {Error} naming the first difference. */
  readonly verify: (imagePath: string) => Promise<void>;
};

/** Where destinations run. */
export type Place = {
  /** Starts a destination; its `stop` gives everything back. */
  readonly start: (arrival: Arrival) => Promise<ArrivedDestination>;
};

function programs(version: QemuVersion): Readonly<Record<DestinationKind, DestinationProgram>> {
  return {
    multifd: multifdDestination,
    qemu: qemuDestination(version),
    "raw-mapping": rawDestination("mapping"),
    "raw-file": rawDestination("file"),
    "raw-fresh": rawDestination("fresh"),
  };
}

/** This machine. @param receivedPath  In memory; where RAM is received, one migration after the other. */
export function localPlace(version: QemuVersion, receivedPath: string, host = LOOPBACK): Place {
  const byKind = programs(version);
  return {
    start: async ({ kind, ...job }) => {
      const dir = createScratchDir("disk");
      const clear = () => {
        rmSync(receivedPath, { force: true });
        removeScratchDir(dir);
      };
      try {
        const destination = await byKind[kind]({ ...job, host, receivedPath, dir });
        return {
          ...destination,
          warm: async () => warmMemory(dirname(receivedPath), job.ramBytes),
          verify: async (imagePath) => assertSameBytes(imagePath, receivedPath),
          stop: async () => {
            await destination.stop();
            clear();
          },
        };
      } catch (error) {
        clear();
        throw error;
      }
    },
  };
}
