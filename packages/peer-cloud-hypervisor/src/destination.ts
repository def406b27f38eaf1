/**
 * Destination: takes a guest in from Cloud Hypervisor, and answers only for what is done.
 *
 * The main channel leads, request by request, through the receiver's states; each
 * is answered once it is carried out. RAM may also come on additional channels,
 * which are let in between Config and State. What is refused is answered Error,
 * after which nobody knows where the next request begins: we listen a little for
 * Abandon, which sources before 53.0 send then, and close.
 *
 * Nothing is believed before it is checked: lengths meet our limits before they
 * size anything, ranges meet RAM before they are placed, descriptors meet the
 * configuration before they are mapped. Until the guest is committed whatever
 * goes wrong gives everything back, and the source's guest goes on.
 *
 * Runs on the coordinator thread; owns the channels.
 * Source: Cloud Hypervisor 50.0 to 53.0, vmm/src/lib.rs, vm_receive_migration().
 */
import { formatAddress } from "@multifd/channel";
import { createCounters, sumCounters } from "@multifd/dataplane";
import {
  Attempt,
  type FirstFailure,
  type MigrationResult,
  type MigrationTotals,
  ProgressMeter,
  type RangeThread,
  RangeThreads,
  tellOutcome,
} from "@multifd/engine";
import {
  ChannelError,
  CONNECTIONS_MAX,
  encodeResponse,
  nextReceiverState,
  ProtocolError,
  type ReceiverState,
  takesVersion,
} from "@multifd/protocol";
import { AdditionalChannels } from "./additional-channels.js";
import type { CloudHypervisorDestinationJob } from "./destination-job.js";
import { sayError } from "./exchange.js";
import { PAGE_BYTES } from "./memory-map.js";
import { RamIntake } from "./ram-intake.js";
import { Reception } from "./reception.js";
import { type Request, RequestReader } from "./request-reader.js";
import { within } from "./within.js";

/** How long a refused source may take to say Abandon, or to close. */
const FAREWELL_MS = 1000;

/**
 * Takes one migration in; everything it opened is closed when it settles.
 *
 * Events: `listening` first, with the port that the system chose where 0 was given; exactly one of `completed` and
 * `failed` last.
 *
 * @throws {MigrationError} what ended it; the guest has been abandoned then, and the source told, if it still listened.
 */
export function runCloudHypervisorDestination(job: CloudHypervisorDestinationJob): Promise<MigrationResult> {
  return tellOutcome(job.onEvent, () => new DestinationMigration(job).run());
}

class DestinationMigration {
  readonly #job: CloudHypervisorDestinationJob;
  readonly #attempt: Attempt;
  readonly #failure: FirstFailure;
  readonly #counters = createCounters(CONNECTIONS_MAX + 2);
  readonly #threads: RangeThreads;
  readonly #meter: ProgressMeter;
  readonly #ram: RamIntake;
  readonly #additional: AdditionalChannels;
  #reception: Reception | null = null;
  #main: RangeThread | null = null;
  #requests: RequestReader | null = null;
  #state: ReceiverState = "established";
  #rounds = 0;
  /** The source has given up: it asked for no refusal. */
  #isAbandoned = false;
  /** The point of no return: neither cancelled nor timed out behind it. */
  #committing = false;

  constructor(job: CloudHypervisorDestinationJob) {
    this.#job = job;
    this.#attempt = new Attempt({
      step: "waiting for the source",
      signal: job.signal,
      tooLate: () => this.#committing,
      sign: () => this.#totals().wireBytes,
    });
    const { failure, signal } = this.#attempt;
    this.#failure = failure;
    this.#threads = job.threads ?? new RangeThreads(1 + (job.channels > 1 ? job.channels : 0));
    this.#meter = new ProgressMeter(job.onEvent, () => this.#totals(), PAGE_BYTES);
    this.#ram = new RamIntake(job, failure, (ram, { ramBytes }) => {
      ram.useBlocks(this.#main!);
      this.#meter.start();
      this.#meter.round(ramBytes / PAGE_BYTES);
    });
    const terms = { job, ram: this.#ram, threads: this.#threads, counters: this.#counters, failure, signal };
    this.#additional = new AdditionalChannels(terms);
  }

  run(): Promise<MigrationResult> {
    return this.#attempt.run({
      act: () => this.#takeIn(),
      settle: (error) => this.#giveBack(error),
      close: () => this.#close(),
    });
  }

  async #takeIn(): Promise<MigrationResult> {
    const { address, tls, handshakeTimeoutMs, onEvent, stallTimeoutMs, channels } = this.#job;
    this.#reception = await Reception.listen(address, tls, handshakeTimeoutMs);
    onEvent({ event: "listening", address: formatAddress(this.#reception.address), channels });
    await this.#acceptMain(this.#reception);
    this.#attempt.watchForStall(stallTimeoutMs);
    const acknowledged = await this.#serve(this.#main!, this.#requests!);
    return this.#attempt.completed(this.#totals(), { downtimeMs: null, acknowledged });
  }

  async #acceptMain(reception: Reception): Promise<void> {
    const channel = await reception.next(this.#attempt.signal);
    this.#failure.check();
    this.#attempt.startClock();
    await reception.secured(channel!, this.#attempt.signal);
    this.#failure.check();
    this.#main = this.#threads.take();
    this.#main.attach(channel!, "main channel", this.#counters, 0);
    this.#requests = new RequestReader(this.#main, this.#job.era);
    this.#job.onEvent({ event: "connected", peer: "Cloud Hypervisor", channels: this.#job.channels });
  }

  /** Takes request after request. @returns whether the source could be told that the guest is ours. */
  async #serve(main: RangeThread, requests: RequestReader): Promise<boolean> {
    for (;;) {
      this.#attempt.step = `waiting for the next request, in state ${this.#state}`;
      const request = await this.#failure.race(requests.next(this.#state));
      this.#attempt.step = `taking ${request.command}`;
      this.#state = nextReceiverState(this.#state, request.command, this.#ram.descriptorsMayFollowConfig);
      if (request.command === "complete" || request.command === "completePaused")
        return this.#complete(main, request.command);
      await this.#take(main, requests, request);
      await this.#failure.race(main.send(encodeResponse("ok")));
      if (request.command === "abandon") throw this.#abandoned();
    }
  }

  /** Carries a request out. */
  async #take(main: RangeThread, requests: RequestReader, request: Request): Promise<void> {
    const { command, payloadBytes, version } = request;
    const { configBytesMax, stateBytesMax } = this.#ram.limits;
    switch (command) {
      case "start":
        if (!takesVersion(this.#job.era, version)) throw foreignVersion(version);
        return;
      case "memoryFd":
        this.#ram.checkDescriptor(payloadBytes);
        await this.#failure.race(requests.readingAll(() => this.#ram.takeDescriptor(main, payloadBytes)));
        return;
      case "config":
        await this.#ram.configure(await this.#failure.race(requests.payload(request, configBytesMax)));
        this.#additional.letIn(this.#reception!);
        return;
      case "memory": {
        this.#rounds++;
        const ram = await this.#ram.forStream();
        ram.checkTableBytes(payloadBytes);
        await this.#failure.race(requests.reading(() => ram.receive(main, payloadBytes)));
        return;
      }
      case "state":
        await this.#takeState(await this.#failure.race(requests.payload(request, stateBytesMax)));
        return;
      default:
        return;
    }
  }

  #abandoned(): ChannelError {
    this.#isAbandoned = true;
    return new ChannelError("ABANDONED", "the source cancelled the migration; its guest goes on there");
  }

  async #takeState(state: Uint8Array<ArrayBuffer>): Promise<void> {
    const { guest, memory } = this.#job;
    const { busy } = this.#additional;
    if (busy > 0)
      throw new ProtocolError("MEMORY_UNFINISHED", `state came while ${busy} channels were still sending RAM`);
    // It was opened before State was sent, which does not mean that it has been let in.
    if (memory === "on-demand") await this.#awaitFaultChannel();
    this.#additional.endMemory();
    await this.#ram.settle();
    await guest.loadState(state);
    this.#failure.check();
  }

  async #awaitFaultChannel(): Promise<void> {
    this.#attempt.step = "waiting for the fault channel";
    const { handshakeTimeoutMs } = this.#job;
    const missing = new ProtocolError(
      "FAULT_CHANNEL_MISSING",
      `no fault channel came within ${handshakeTimeoutMs} ms; set the same memory mode on both sides`,
    );
    const timer = setTimeout(() => this.#failure.fail(missing), handshakeTimeoutMs);
    try {
      await this.#failure.race(this.#additional.faultChannel);
    } finally {
      clearTimeout(timer);
    }
  }

  /** Takes the guest over, RAM first where it comes on demand, and says so. */
  async #complete(main: RangeThread, command: "complete" | "completePaused"): Promise<boolean> {
    const { guest, memory } = this.#job;
    if (memory === "on-demand") {
      this.#attempt.step = "fetching RAM";
      const faults = await this.#additional.faultChannel;
      const ram = await this.#ram.forFaults();
      await this.#failure.race(ram.fetchAll(faults));
      faults.shutDown(); // its end says that everything is here
    }
    this.#attempt.endStallWatch();
    this.#failure.check();
    this.#committing = true;
    await guest.commit(command === "complete" ? "resume" : "leave-paused");
    this.#state = "completed";
    try {
      await main.send(encodeResponse("ok"));
      return true;
    } catch (error) {
      // The guest is ours. If the source cannot be told any more, it reports that; nothing is undone here.
      if (error instanceof ChannelError) return false;
      throw error;
    }
  }

  /** Undoes everything and tells the source, whose guest then goes on. */
  async #giveBack(error: unknown): Promise<unknown> {
    const { guest } = this.#job;
    // A guest that `commit` may have started must be stopped before the source can hear of it; otherwise the source
    // hears first, for its guest may be waiting.
    if (this.#committing) await guest.abandon();
    if (this.#main !== null && !this.#isAbandoned && !(error instanceof ChannelError && NOT_TOLD.has(error.code))) {
      sayError(this.#main);
      await within(FAREWELL_MS, this.#requests!.hearAbandon());
    }
    await this.#closeChannels();
    if (!this.#committing) await guest.abandon();
    return error;
  }

  async #closeChannels(): Promise<void> {
    const main = this.#main;
    this.#main = null;
    main?.shutDown();
    await this.#additional.close();
    if (main !== null) await this.#threads.giveBack(main);
    this.#ram.close();
    if (this.#job.threads === undefined) await this.#threads.end();
  }

  async #close(): Promise<void> {
    this.#meter.stop();
    this.#additional.endMemory();
    await this.#reception?.close();
    await this.#closeChannels();
  }

  #totals(): MigrationTotals {
    const { wireBytes, normalPages } = sumCounters(this.#counters);
    return {
      ramBytes: this.#ram.ramBytes,
      wireBytes,
      normalPages: Math.round(normalPages),
      zeroPages: 0,
      rounds: this.#rounds,
    };
  }
}

/** The source is gone, so nobody is left to be told; or nobody knows whether the guest runs, so it must not hear that it does not. */
const NOT_TOLD: ReadonlySet<string> = new Set(["CHANNEL_CUT", "CHANNEL_BROKEN", "ACKNOWLEDGEMENT_LOST"]);

function foreignVersion(version: number): ProtocolError {
  return new ProtocolError(
    "PROTOCOL_VERSION",
    `the source speaks version ${version} of the protocol, this side speaks 0; use an older source or a newer multifd`,
  );
}
