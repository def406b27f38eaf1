/**
 * RAM intake: which of three ways a destination's RAM takes, and where it goes.
 *
 *   over the stream   Config ── placed ── Memory, on whatever channel …
 *   as descriptors    MemoryFd … ── Config ── State: matched and adopted
 *   on demand         Config ── placed ── a page fault each, on a channel of its own
 *
 * A migration keeps to one of them: what belongs to another is refused before anything is placed
 * twice. Where descriptors may also follow Config, only the first byte or the first descriptor tells.
 *
 * Owns the descriptors that have not been adopted, and what RAM is written through.
 */
import type { FirstFailure, RangeThread } from "@multifd/engine";
import { ProtocolError, readMemoryMappings } from "@multifd/protocol";
import { DescriptorIntake } from "./descriptor-intake.js";
import { type CloudHypervisorDestinationJob, DESTINATION_LIMITS } from "./destination-job.js";
import { IncomingRam } from "./incoming-ram.js";
import { MemoryMap } from "./memory-map.js";

export class RamIntake {
  readonly #job: CloudHypervisorDestinationJob;
  readonly #failure: FirstFailure;
  readonly #onPlaced: (ram: IncomingRam, map: MemoryMap) => void;
  readonly #descriptors: DescriptorIntake;
  #map: MemoryMap | null = null;
  /** RAM that is being placed, or has been: several channels may want it at once. */
  #placing: Promise<IncomingRam> | null = null;
  #ram: IncomingRam | null = null;

  /** @param onPlaced  Called once at most, before a byte is taken. */
  constructor(
    job: CloudHypervisorDestinationJob,
    failure: FirstFailure,
    onPlaced: (ram: IncomingRam, map: MemoryMap) => void,
  ) {
    this.#job = job;
    this.#failure = failure;
    this.#onPlaced = onPlaced;
    this.#descriptors = new DescriptorIntake(job.lenientDescriptors);
  }

  /** 0 before Config. */
  get ramBytes(): number {
    return this.#map?.ramBytes ?? 0;
  }

  get limits() {
    return this.#job.limits ?? DESTINATION_LIMITS;
  }

  get descriptorsMayFollowConfig(): boolean {
    return this.#descriptors.mayFollowConfig;
  }

  /** Whether a MemoryFd may be taken now. @throws {ProtocolError} MEMORY_FD_LENGTH, COMMAND_OUT_OF_ORDER. */
  checkDescriptor(payloadBytes: number): void {
    this.#descriptors.checkLength(payloadBytes);
    if (this.#placing === null && this.#job.memory === "stream") return;
    throw new ProtocolError(
      "COMMAND_OUT_OF_ORDER",
      "a descriptor came, but RAM comes over the stream or on demand already; set the same memory mode on both sides",
    );
  }

  /** @throws {ProtocolError} MEMORY_FD_COUNT, MEMORY_FD_SLOT. */
  takeDescriptor(thread: RangeThread, payloadBytes: number): Promise<void> {
    return this.#descriptors.take(thread, payloadBytes);
  }

  /** @throws {MigrationError} CONFIG_JSON, CONFIG_MEMORY, MEMORY_MAP, and what the guest says to it. */
  async configure(config: Uint8Array<ArrayBuffer>): Promise<void> {
    const { guest, mappings } = this.#job;
    this.#map = new MemoryMap(mappings ?? readMemoryMappings(config));
    await guest.loadConfig(config, this.#map);
    this.#failure.check();
    if (this.#descriptors.count > 0 || this.#descriptors.mayFollowConfig) return; // placed with State, or the first bytes
    await this.#place();
  }

  /** What a Memory command writes into. @throws {ProtocolError} COMMAND_OUT_OF_ORDER. */
  async forStream(): Promise<IncomingRam> {
    if (this.#descriptors.count > 0)
      throw new ProtocolError("COMMAND_OUT_OF_ORDER", "memory came, and descriptors before it; RAM is here already");
    if (this.#job.memory === "on-demand")
      throw new ProtocolError(
        "COMMAND_OUT_OF_ORDER",
        "memory came, but RAM was to come on demand; set the same memory mode on both sides",
      );
    return this.#place();
  }

  /** What page faults fill. */
  forFaults(): Promise<IncomingRam> {
    return this.#place();
  }

  /** No more RAM will come over the stream. @throws {ProtocolError} MEMORY_FD_SLOT, MEMORY_FD_SIZE. */
  async settle(): Promise<void> {
    if (this.#descriptors.count > 0) await this.#job.guest.adoptRam(this.#descriptors.match(this.#map!));
    else await this.#place();
  }

  /** Nobody may be writing any more. Idempotent. */
  close(): void {
    this.#ram?.close();
    this.#ram = null;
    this.#descriptors.close();
  }

  #place(): Promise<IncomingRam> {
    this.#placing ??= this.#placeOnce();
    return this.#placing;
  }

  async #placeOnce(): Promise<IncomingRam> {
    const map = this.#map!;
    const placements = await this.#job.guest.placeRam(map.blocks.map(({ block }) => block));
    this.#failure.check();
    this.#ram = new IncomingRam(map, placements, this.limits.tableBytesMax, this.#job.guest);
    this.#onPlaced(this.#ram, map);
    return this.#ram;
  }
}
