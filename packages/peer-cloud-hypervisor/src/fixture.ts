/**
 * Test fixtures: a guest in memory files with two RAM blocks and a hole between them, one that takes it in, and
 * the job that each end is given unless a test wants something else.
 */
import { randomFillSync } from "node:crypto";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { BitmapTracker, type MigrationEvent, type RamPlacement, type RamSource, RangeThreads } from "@multifd/engine";
import { closeDescriptor, createMemfd, mapFile, readMemory, unmap, writeMemory } from "@multifd/native";
import { ERAS, SystemError } from "@multifd/protocol";
import { runCloudHypervisorDestination } from "./destination.js";
import type { AdoptedRam, CloudHypervisorDestinationGuest, CloudHypervisorDestinationJob } from "./destination-job.js";
import type { MemoryMap } from "./memory-map.js";
import { type CloudHypervisorSourceJob, describeMemory } from "./source-job.js";

/** 2^63 + 1: what a number cannot hold must come out as it went in. */
const LARGE = "9223372036854775809";

export type MappingFixture = { readonly gpa: number; readonly bytes: number; readonly slot: number };

/** Low RAM, a hole, and high RAM. */
export const MAPPINGS: readonly MappingFixture[] = [
  { gpa: 0, bytes: 1 << 20, slot: 0 },
  { gpa: 2 ** 32, bytes: 3 << 19, slot: 5 },
];

export function makeConfig(mappings: readonly MappingFixture[] = MAPPINGS): Uint8Array {
  const list = mappings.map(
    ({ gpa, bytes, slot }) =>
      `{"slot":${slot},"gpa":${gpa},"size":${bytes},"zone_id":"mem0","virtio_mem":false,"file_offset":0}`,
  );
  return Buffer.from(
    `{"vm_config":{"memory":{"size":${LARGE}}}, "common_cpuid":[],\n "memory_manager_data":{"guest_ram_mappings":[${list.join(",")}],"start_of_device_area":${LARGE}}}`,
  );
}

export const STATE = Buffer.from(`{"snapshots":{},"snapshot_data":{"state":"{\\"clock\\":${LARGE}}"}}`);

/** A file of shared memory that tests read and write. */
export class MemoryFile {
  readonly descriptor: number;
  readonly #lengthBytes: number;

  constructor(lengthBytes: number, content?: Uint8Array) {
    this.#lengthBytes = lengthBytes;
    this.descriptor = createMemfd("test", lengthBytes);
    if (content !== undefined) this.write(0, content);
  }

  write(offset: number, bytes: Uint8Array): void {
    const mapping = mapFile(this.descriptor, { lengthBytes: this.#lengthBytes, writable: true });
    writeMemory(mapping, offset, bytes);
    unmap(mapping);
  }

  read(): Uint8Array {
    const out = new Uint8Array(this.#lengthBytes);
    const mapping = mapFile(this.descriptor, { lengthBytes: this.#lengthBytes, writable: false });
    readMemory(mapping, 0, out);
    unmap(mapping);
    return out;
  }

  close(): void {
    closeDescriptor(this.descriptor);
  }
}

/** A guest at the source that writes when the test says so; what it was asked for is told in `calls`. */
export class FixtureSource {
  readonly config: Uint8Array;
  readonly files: readonly MemoryFile[];
  readonly calls: string[] = [];
  readonly bitmaps: readonly SharedArrayBuffer[];
  readonly guest;
  /** Called when the snapshot is taken; may write. */
  onSnapshot: () => void = () => {};
  /** Called when the guest is paused; may write. */
  onPause: () => void = () => {};
  state: Uint8Array = STATE;

  constructor(options: { readonly live?: boolean; readonly mappings?: readonly MappingFixture[] } = {}) {
    const { live = true, mappings = MAPPINGS } = options;
    this.config = makeConfig(mappings);
    this.files = mappings.map(({ bytes }) => new MemoryFile(bytes, randomFillSync(new Uint8Array(bytes))));
    this.bitmaps = mappings.map(({ bytes }) => new SharedArrayBuffer(Math.ceil(bytes / 4096 / 64) * 8));
    const ram = describeMemory(this.config).blocks.map(
      ({ block }, index): RamSource => ({ block, descriptor: this.files[index]!.descriptor, offsetBytes: 0 }),
    );
    this.guest = {
      ram,
      tracker: live ? new BitmapTracker(this.bitmaps) : null,
      pause: async () => {
        this.calls.push("pause");
        this.onPause();
      },
      resume: async () => {
        this.calls.push("resume");
      },
      devices: [],
    };
  }

  readonly snapshot = async (): Promise<Uint8Array> => {
    this.calls.push("snapshot");
    this.onSnapshot();
    return this.state;
  };

  /** The guest writes. */
  dirty(file: number, page: number, value: number): void {
    this.files[file]!.write(page * 4096, new Uint8Array(4096).fill(value));
    Atomics.or(new Int32Array(this.bitmaps[file]!), page >>> 5, 1 << (page & 31));
  }

  content(): Uint8Array[] {
    return this.files.map((file) => file.read());
  }

  close(): void {
    for (const file of this.files) file.close();
  }
}

/** A guest at the destination, and what became of it. */
export class FixtureDestination implements CloudHypervisorDestinationGuest {
  readonly calls: string[] = [];
  config: Uint8Array | null = null;
  state: Uint8Array | null = null;
  adopted: readonly AdoptedRam[] = [];
  files: MemoryFile[] = [];
  /** Set to make a step fail. */
  failAt: string | null = null;

  #step(name: string): void {
    this.calls.push(name);
    if (this.failAt === name) throw new SystemError("TEST_REFUSAL", `told to fail at ${name}`);
  }

  async loadConfig(config: Uint8Array, _map: MemoryMap): Promise<void> {
    this.config = config;
    this.#step("config");
  }

  async placeRam(blocks: readonly { lengthBytes: number }[]): Promise<readonly RamPlacement[]> {
    this.#step("place");
    this.files = blocks.map(({ lengthBytes }) => new MemoryFile(lengthBytes));
    return blocks.map((block, index) => ({
      block: block as RamPlacement["block"],
      descriptor: this.files[index]!.descriptor,
      through: "file",
      startsZeroed: true,
    }));
  }

  async adoptRam(ram: readonly AdoptedRam[]): Promise<void> {
    this.adopted = ram;
    this.#step("adopt");
  }

  async loadState(state: Uint8Array): Promise<void> {
    this.state = state;
    this.#step("state");
  }

  async commit(how: "resume" | "leave-paused"): Promise<void> {
    this.#step(`commit ${how}`);
  }

  async abandon(): Promise<void> {
    this.calls.push("abandon");
  }

  content(): Uint8Array[] {
    return this.files.map((file) => file.read());
  }

  close(): void {
    for (const file of this.files.splice(0)) file.close();
    for (const { descriptor } of this.adopted) closeDescriptor(descriptor);
    this.adopted = [];
  }
}

/** Threads for all tests of a file, since each takes a tenth of a second to start. */
export const threads = new RangeThreads(0);

/** A directory for sockets, removed with `drop`. */
export function makeSocketDir(): { readonly path: string; readonly drop: () => void } {
  const path = mkdtempSync(join(tmpdir(), "multifd-ch-"));
  return { path, drop: () => rmSync(path, { recursive: true, force: true }) };
}

/** What a destination is told unless a test wants something else. */
export function destinationJob(
  guest: CloudHypervisorDestinationGuest,
  socketPath: string,
  more: Partial<CloudHypervisorDestinationJob> = {},
): CloudHypervisorDestinationJob {
  return {
    guest,
    address: { kind: "unix", path: socketPath },
    era: ERAS.next,
    memory: "stream",
    lenientDescriptors: false,
    channels: 1,
    handshakeTimeoutMs: 10_000,
    stallTimeoutMs: 10_000,
    onEvent: () => {},
    threads,
    ...more,
  };
}

/** Starts a destination. Resolves when it listens. */
export async function startDestination(
  job: CloudHypervisorDestinationJob,
): Promise<{ readonly address: string; readonly outcome: Promise<Outcome> }> {
  return new Promise((resolve, reject) => {
    const onEvent = (event: MigrationEvent) => {
      if (event.event === "listening") resolve({ address: event.address, outcome });
      job.onEvent(event);
    };
    const outcome = settle(runCloudHypervisorDestination({ ...job, onEvent }));
    outcome.then(() => reject(new Error("the destination ended before it listened")));
  });
}

export type Outcome =
  | { readonly ok: true; readonly acknowledged: boolean }
  | { readonly ok: false; readonly code: string; readonly message: string };

/** What became of a migration, without throwing. */
export async function settle(run: Promise<{ readonly acknowledged: boolean }>): Promise<Outcome> {
  try {
    const { acknowledged } = await run;
    return { ok: true, acknowledged };
  } catch (error) {
    const { code = "DEFECT", message } = error as Error & { code?: string };
    return { ok: false, code, message };
  }
}

/** What a source is told unless a test wants something else. */
export function sourceJob(
  source: FixtureSource,
  socketPath: string,
  more: Partial<CloudHypervisorSourceJob> = {},
): CloudHypervisorSourceJob {
  return {
    source,
    address: { kind: "unix", path: socketPath },
    era: ERAS.next,
    memory: "stream",
    channels: 1,
    handOver: "resume",
    connectTimeoutMs: 5000,
    stallTimeoutMs: 10_000,
    downtimeLimitMs: 300,
    roundsMax: 30,
    atRoundLimit: "fail",
    maxBandwidth: 0,
    onEvent: () => {},
    threads,
    ...more,
  };
}
