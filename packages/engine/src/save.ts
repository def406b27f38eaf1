/**
 * Save: moves a guest into a destination guest of this same process, such as a snapshot file.
 *
 * The source runs as for any migration, rounds, pauses and all, but its threads write the
 * pages into their places themselves, with no channel, no packet header and no other end
 * between. What would be that end's part is done at the same moments:
 *
 *   begin ─▶ placeRam      closeRound ─▶ roundIn      finish ─▶ loadDevices, commit      failure ─▶ abandon
 *
 * The guest is the source's until `commit` has resolved, and may go on as soon as all has been read.
 */
import type { Channel } from "@multifd/channel";
import { ConfigError } from "@multifd/protocol";
import type { MigrationResult } from "./events.js";
import type { DestinationGuest, DevicePart } from "./guest.js";
import type { ListedBlock, RoundPhase, SourcePeer } from "./peer.js";
import { PlacedRam } from "./placed-ram.js";
import { runSource } from "./source.js";
import type { SourceJob } from "./source-job.js";

export type SaveJob = Omit<SourceJob, "peer" | "compression" | "level"> & {
  readonly into: DestinationGuest;
  /** For events and messages. */
  readonly name: string;
  readonly threads: number;
  /** Called once, when everything has been read and the rest is the destination's: the guest need not wait for that. */
  readonly onRead?: () => Promise<void>;
};

/**
 * Saves a guest.
 *
 * @throws {MigrationError} what ended it; the destination guest has been abandoned then, and the source's runs as before.
 */
export async function runSave(job: SaveJob): Promise<MigrationResult> {
  const [device] = [...(job.guest.introduction ?? []), ...job.guest.devices];
  if (device !== undefined) {
    throw new ConfigError(
      "DEVICE_STATE_UNEXPECTED",
      `device "${device.idstr}" has a state beside RAM, which ${job.name} cannot take`,
    );
  }
  const peer = new SavePeer(job);
  try {
    return await runSource({ ...job, peer, compression: "none", level: 0 });
  } finally {
    await peer.end();
  }
}

class SavePeer implements SourcePeer {
  readonly name: string;
  readonly channels: number;
  readonly mainBytes = 0;
  readonly packetMethods = null;
  readonly file: { readonly places: PlacedRam };
  readonly #into: DestinationGuest;
  readonly #onRead: () => Promise<void>;
  #places: PlacedRam | null = null;
  /** Whatever is under way at the destination; what undoes it waits for that. */
  #working: Promise<void> = Promise.resolve();
  #committed = false;
  #tell: (taken: true) => void = () => {};
  readonly #verdict = new Promise<true>((resolve) => {
    this.#tell = resolve;
  });

  constructor({ into, name, threads, onRead = async () => {} }: SaveJob) {
    this.name = name;
    this.channels = threads;
    this.#into = into;
    this.#onRead = onRead;
    const places = () => this.#places!;
    this.file = {
      get places() {
        return places();
      },
    };
  }

  async connect(): Promise<readonly Channel[]> {
    return [];
  }

  zeroPagesGo(): "in-packets" {
    return "in-packets";
  }

  begin(blocks: readonly ListedBlock[]): Promise<void> {
    return this.#work(async () => {
      const placements = await this.#into.placeRam(blocks);
      this.#places = new PlacedRam(placements, blocks[0]!.pageBytes);
    });
  }

  async closeRound(phase: RoundPhase): Promise<void> {
    if (phase !== "setup") await this.#work(async () => this.#into.roundIn?.());
  }

  async finish(devices: DevicePart | null): Promise<void> {
    const kept = this.#work(async () => {
      if (devices !== null) await this.#into.loadDevices(devices);
      await this.#into.commit();
      this.#committed = true;
    });
    await Promise.all([this.#onRead(), kept]);
    this.#tell(true);
  }

  #work(action: () => Promise<void>): Promise<void> {
    const done = action();
    this.#working = done.catch(() => {});
    return done;
  }

  verdict(): Promise<boolean> {
    return this.#verdict;
  }

  close(): void {}

  /** Frees the places, once no thread writes any more, and undoes what was not kept. */
  async end(): Promise<void> {
    await this.#working;
    this.#places?.close();
    if (!this.#committed) await this.#into.abandon();
  }
}
