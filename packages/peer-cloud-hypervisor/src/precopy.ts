/**
 * Precopy: a source's passes over RAM while the guest runs, the one when it stands, and the one after that.
 *
 * Dirty pages are asked for before they are read, so a page written while it is being sent comes again.
 * The device snapshot may itself write guest RAM (vhost-user devices drain then): what it wrote goes
 * once more, to every era, since a destination takes any number of Memory commands before State.
 * Source: Cloud Hypervisor 25.0 to 53.0, vmm/src/lib.rs, send_migration() and what it calls.
 */
import {
  type Attempt,
  Convergence,
  DirtyPages,
  type ProgressMeter,
  type RamFeed,
  type SourceGuest,
  willNotConverge,
} from "@multifd/engine";
import type { MemoryRangeTable } from "@multifd/protocol";
import { allocatedRam, dirtyRam, wholeRam } from "./dirty-tables.js";
import { type MemoryMap, PAGE_BYTES } from "./memory-map.js";
import type { SourceChannels } from "./source-channels.js";
import type { CloudHypervisorSourceJob } from "./source-job.js";

export type PrecopyTerms = {
  readonly job: CloudHypervisorSourceJob;
  readonly map: MemoryMap;
  /** As the map's blocks. */
  readonly ram: SourceGuest["ram"];
  readonly channels: SourceChannels;
  readonly attempt: Attempt;
  readonly meter: ProgressMeter;
  /** Pauses the guest. @param expectedDowntimeMs  As the passes let expect it. */
  readonly pause: (dirtyPages: number, expectedDowntimeMs: number) => Promise<void>;
};

export class Precopy {
  readonly #terms: PrecopyTerms;
  readonly #dirty: DirtyPages;
  #rounds = 0;

  constructor(terms: PrecopyTerms) {
    const { job, ram, attempt } = terms;
    this.#terms = terms;
    this.#dirty = new DirtyPages(job.source.guest, ram, attempt.failure);
  }

  /** Passes so far, the one under way among them. */
  get rounds(): number {
    return this.#rounds;
  }

  /** Passes over RAM while the guest runs, pauses it, and sends what is left. */
  async run(): Promise<void> {
    const { job, map, ram } = this.#terms;
    const { feed, tracker } = job.source.guest;
    await this.#dirty.track();
    if (feed !== undefined) return this.#passOn(feed);
    this.#dirty.fill();
    const first = job.era.sparseFirstPass ? allocatedRam(map, ram) : wholeRam(map);
    if (tracker === null) {
      await this.#sendPass(first, "running"); // nobody writes this RAM any more, so there is nobody to pause
      return;
    }
    const expectedDowntimeMs = await this.#converge(first);
    await this.#finish(expectedDowntimeMs);
  }

  /** What the device snapshot wrote. */
  async passAfterSnapshot(): Promise<void> {
    if (this.#terms.job.source.guest.tracker === null) return;
    this.#dirty.harvest();
    await this.#sendDirty("paused", "on-main");
  }

  /** Sends what a feed brings, pass by pass, and pauses the guest when it brings no more. */
  async #passOn(feed: RamFeed): Promise<void> {
    const { attempt } = this.#terms;
    while (await attempt.failure.race(feed.more())) {
      this.#dirty.harvest();
      await this.#sendDirty("running");
      feed.sent();
      attempt.step = "waiting for RAM to send";
    }
    await this.#finish(0);
  }

  /** @returns the downtime to expect. @throws {ConfigError} WILL_NOT_CONVERGE. */
  async #converge(first: MemoryRangeTable): Promise<number> {
    const { job, map, channels, meter } = this.#terms;
    const { era, downtimeLimitMs, atRoundLimit, roundsMax } = job;
    const fixed = era.passes.kind === "at-most" ? era.passes.passes + 1 : null;
    const convergence = new Convergence({ downtimeLimitMs, roundsMax: fixed ?? roundsMax, atRoundLimit });
    for (let table = first; ; table = dirtyRam(map, this.#dirty.bitmaps)) {
      const before = channels.sent.normalPages;
      const startedMs = performance.now();
      await this.#sendPass(table, "running");
      const elapsedMs = performance.now() - startedMs;
      await this.#dirty.harvestRunning();
      const dirtyPages = this.#dirty.count;
      const normalBytes = (channels.sent.normalPages - before) * PAGE_BYTES;
      const verdict = convergence.judge({ normalBytes, elapsedMs }, dirtyPages * PAGE_BYTES);
      meter.expect(verdict.expectedDowntimeMs);
      const isEnough = fixed === null ? verdict.kind !== "another-round" : dirtyPages === 0 || this.#rounds === fixed;
      if (!isEnough) continue;
      if (fixed === null && verdict.kind === "will-not-converge")
        throw willNotConverge(downtimeLimitMs, verdict.expectedDowntimeMs, this.#rounds);
      return verdict.expectedDowntimeMs;
    }
  }

  async #finish(expectedDowntimeMs: number): Promise<void> {
    await this.#terms.pause(this.#dirty.count, expectedDowntimeMs);
    this.#dirty.harvest();
    await this.#sendDirty("paused");
  }

  async #sendDirty(guest: "running" | "paused", where: "any" | "on-main" = "any"): Promise<void> {
    const table = dirtyRam(this.#terms.map, this.#dirty.bitmaps);
    if (table.count > 0) await this.#sendPass(table, guest, where);
  }

  async #sendPass(
    table: MemoryRangeTable,
    guest: "running" | "paused",
    where: "any" | "on-main" = "any",
  ): Promise<void> {
    const { job, attempt, meter, channels } = this.#terms;
    this.#dirty.clear();
    const dirtyBytes = Number(table.totalBytes());
    const round = ++this.#rounds;
    attempt.step = `sending round ${round}${guest === "paused" ? ", paused" : ""}`;
    job.onEvent({ event: "round", round, dirtyPages: dirtyBytes / PAGE_BYTES, dirtyBytes });
    meter.round(dirtyBytes / PAGE_BYTES);
    const isPaced = guest === "running" || job.source.guest.tracker === null;
    await channels.sendTable(table, isPaced ? job.maxBandwidth : 0, where);
  }
}
