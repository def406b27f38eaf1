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
import { type Channel, formatAddress } from "@multifd/channel";
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
import { sendBytes } from "@multifd/native";
import {
  ChannelError,
  CONNECTION_ROLE,
  CONNECTION_ROLE_BYTES,
  CONNECTIONS_MAX,
  type CommandName,
  commandName,
  encodeResponse,
  knowsCommand,
  migrationRequest,
  nextReceiverState,
  ProtocolError,
  placeError,
  REQUEST_BYTES,
  type ReceiverState,
  readMemoryMappings,
  takesVersion,
} from "@multifd/protocol";
import { DescriptorIntake } from "./descriptor-intake.js";
import { type CloudHypervisorDestinationJob, DESTINATION_LIMITS } from "./destination-job.js";
import { receiveExact, receiveOrEnd } from "./exchange.js";
import { abandonedBySource, IncomingRam } from "./incoming-ram.js";
import { MemoryMap, PAGE_BYTES } from "./memory-map.js";
import { Reception } from "./reception.js";
import { within } from "./within.js";

/** How long a refused source may take to say Abandon, or to close. */
const FAREWELL_MS = 1000;
/** What is read past, of a request that was refused, to find the next one. */
const SKIP_BYTES_MAX = 2 ** 20;

type Request = { readonly command: CommandName; readonly payloadBytes: number; readonly version: number };

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
  /** Additional channels are let in until this ends. */
  readonly #memoryOver = new AbortController();
  readonly #counters = createCounters(CONNECTIONS_MAX + 2);
  readonly #threads: RangeThreads;
  readonly #meter: ProgressMeter;
  readonly #descriptors: DescriptorIntake;
  readonly #additional = new Set<RangeThread>();
  readonly #serving: Promise<void>[] = [];
  readonly #faultChannel: Promise<RangeThread>;
  #faultChannelCame: (thread: RangeThread) => void = () => {};
  #reception: Reception | null = null;
  #main: RangeThread | null = null;
  #map: MemoryMap | null = null;
  #ram: IncomingRam | null = null;
  /** RAM that is being placed, or has been: several channels may want it at once. */
  #placing: Promise<IncomingRam> | null = null;
  #state: ReceiverState = "established";
  /** Memory commands under way on additional channels. */
  #busy = 0;
  #rounds = 0;
  /** Bytes of the present request that have not been read: what stands between us and the next one. */
  #unreadBytes = 0;
  /** The next request, ordered from the main channel's thread; whoever gives up still has to take it from here. */
  #coming: Promise<Uint8Array | null> | null = null;
  #refusalSent = false;
  #accepted = 0;
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
    this.#failure = this.#attempt.failure;
    this.#threads = job.threads ?? new RangeThreads(1 + (job.channels > 1 ? job.channels : 0));
    this.#meter = new ProgressMeter(job.onEvent, () => this.#totals(), PAGE_BYTES);
    this.#descriptors = new DescriptorIntake(job.lenientDescriptors);
    this.#faultChannel = new Promise((resolve) => {
      this.#faultChannelCame = resolve;
    });
  }

  run(): Promise<MigrationResult> {
    return this.#attempt.run({
      act: () => this.#takeIn(),
      settle: (error) => this.#giveBack(error),
      close: () => this.#closeAll(),
    });
  }

  async #takeIn(): Promise<MigrationResult> {
    const { address, tls, handshakeTimeoutMs, onEvent, stallTimeoutMs, channels } = this.#job;
    this.#reception = await Reception.listen(address, tls, handshakeTimeoutMs);
    onEvent({ event: "listening", address: formatAddress(this.#reception.address), channels });
    await this.#acceptMain(this.#reception);
    this.#attempt.watchForStall(stallTimeoutMs);
    const acknowledged = await this.#serve(this.#reception);
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
    this.#job.onEvent({ event: "connected", peer: "Cloud Hypervisor", channels: this.#job.channels });
  }

  /** Takes request after request. @returns whether the source could be told that the guest is ours. */
  async #serve(reception: Reception): Promise<boolean> {
    const main = this.#main!;
    for (;;) {
      const request = await this.#failure.race(this.#nextRequest(main));
      this.#state = nextReceiverState(this.#state, request.command, this.#descriptors.mayFollowConfig);
      switch (request.command) {
        case "start":
          this.#checkVersion(request.version);
          break;
        case "memoryFd":
          await this.#failure.race(this.#takeDescriptor(main, request.payloadBytes));
          break;
        case "config":
          await this.#takeConfig(await this.#failure.race(this.#payload(main, request, this.#limits.configBytesMax)));
          this.#letChannelsIn(reception);
          break;
        case "memory":
          this.#rounds++;
          await this.#failure.race(this.#takeMemory(main, await this.#ramOfStream(), request.payloadBytes));
          break;
        case "state":
          await this.#takeState(main, request);
          break;
        case "abandon":
          this.#refusalSent = true; // it asked for none
          await this.#failure.race(main.send(encodeResponse("ok")));
          throw abandonedBySource();
        case "complete":
        case "completePaused":
          return this.#complete(main, request.command);
      }
      await this.#failure.race(main.send(encodeResponse("ok")));
    }
  }

  get #limits() {
    return this.#job.limits ?? DESTINATION_LIMITS;
  }

  async #nextRequest(thread: RangeThread): Promise<Request> {
    this.#attempt.step = `waiting for the next request, in state ${this.#state}`;
    this.#coming = receiveOrEnd(thread, REQUEST_BYTES, "a request");
    const wire = await this.#coming;
    this.#coming = null;
    if (wire === null)
      throw (
        (await thread.reasonOfEnd()) ??
        new ChannelError(
          "CHANNEL_CUT",
          `${thread.name}: the source closed in state ${this.#state}, before the guest was complete; its own log says why`,
        )
      );
    return this.#judge(wire);
  }

  /** Reads a request's header. @throws {ProtocolError} COMMAND_UNKNOWN, COMMAND_LENGTH. */
  #judge(wire: Uint8Array): Request {
    this.#unreadBytes = Number.POSITIVE_INFINITY; // until the length is known to be one
    const { command, version, payloadBytes } = migrationRequest.decode(wire);
    this.#unreadBytes = payloadBytes;
    const name = commandName(command);
    if (name === null || name === "pageFault" || !knowsCommand(this.#job.era, name))
      throw new ProtocolError(
        "COMMAND_UNKNOWN",
        `${name ?? "a command"} (${command}) came, which a destination of release ${this.#job.era.name} does not take`,
      );
    const due = NO_PAYLOAD.has(name) ? 0 : null;
    if (due !== null && payloadBytes !== due)
      throw new ProtocolError("COMMAND_LENGTH", `${name} announces ${payloadBytes} bytes, none were due`);
    this.#attempt.step = `taking ${name}`;
    return { command: name, payloadBytes, version };
  }

  #checkVersion(version: number): void {
    if (takesVersion(this.#job.era, version)) return;
    throw new ProtocolError(
      "PROTOCOL_VERSION",
      `the source speaks version ${version} of the protocol, this side speaks 0; use an older source or a newer multifd`,
    );
  }

  async #payload(thread: RangeThread, { command, payloadBytes }: Request, bytesMax: number): Promise<Uint8Array> {
    if (payloadBytes > bytesMax)
      throw new ProtocolError(
        "COMMAND_LENGTH",
        `${command} announces ${payloadBytes} bytes, at most ${bytesMax} are taken`,
      );
    const payload = await receiveExact(thread, payloadBytes, `the payload of ${command}`);
    this.#unreadBytes = 0;
    return payload;
  }

  async #takeDescriptor(main: RangeThread, payloadBytes: number): Promise<void> {
    this.#descriptors.checkLength(payloadBytes);
    if (this.#placing !== null || this.#job.memory === "on-demand")
      throw new ProtocolError(
        "COMMAND_OUT_OF_ORDER",
        "a descriptor came, but RAM comes over the stream or on demand already; set the same memory mode on both sides",
      );
    this.#unreadBytes = 0;
    await this.#descriptors.take(main, payloadBytes);
  }

  async #takeConfig(config: Uint8Array): Promise<void> {
    const { guest, mappings } = this.#job;
    this.#map = new MemoryMap(mappings ?? readMemoryMappings(config));
    await guest.loadConfig(config, this.#map);
    this.#failure.check();
    if (this.#descriptors.count > 0 || this.#descriptors.mayFollowConfig) return; // placed with State, or the first bytes
    await this.#placeRam();
  }

  /** The RAM that bytes go into; made with Config, or later where descriptors may still come instead. */
  #placeRam(): Promise<IncomingRam> {
    this.#placing ??= this.#place();
    return this.#placing;
  }

  async #place(): Promise<IncomingRam> {
    const map = this.#map!;
    const placements = await this.#job.guest.placeRam(map.blocks.map(({ block }) => block));
    this.#failure.check();
    this.#ram = new IncomingRam(map, placements, this.#limits.tableBytesMax, this.#job.guest);
    this.#ram.useBlocks(this.#main!);
    this.#meter.start();
    this.#meter.round(map.ramBytes / PAGE_BYTES);
    return this.#ram;
  }

  /** The RAM that a Memory command goes into. */
  async #ramOfStream(): Promise<IncomingRam> {
    if (this.#descriptors.count > 0)
      throw new ProtocolError("COMMAND_OUT_OF_ORDER", "memory came, and descriptors before it; RAM is here already");
    if (this.#job.memory === "on-demand")
      throw new ProtocolError(
        "COMMAND_OUT_OF_ORDER",
        "memory came, but RAM was to come on demand; set the same memory mode on both sides",
      );
    return this.#placeRam();
  }

  async #takeMemory(thread: RangeThread, ram: IncomingRam, payloadBytes: number): Promise<void> {
    ram.checkTableBytes(payloadBytes);
    if (thread === this.#main) this.#unreadBytes = Number.POSITIVE_INFINITY; // what follows the table has no length of its own
    await ram.receive(thread, payloadBytes);
    if (thread === this.#main) this.#unreadBytes = 0;
  }

  async #takeState(main: RangeThread, request: Request): Promise<void> {
    const { guest, memory } = this.#job;
    const state = await this.#failure.race(this.#payload(main, request, this.#limits.stateBytesMax));
    if (this.#busy > 0)
      throw new ProtocolError("MEMORY_UNFINISHED", `state came while ${this.#busy} channels were still sending RAM`);
    // It was opened before State was sent, which does not mean that it has been let in.
    if (memory === "on-demand") await this.#awaitFaultChannel();
    this.#memoryOver.abort();
    if (this.#descriptors.count > 0) await guest.adoptRam(this.#descriptors.match(this.#map!));
    else if (this.#descriptors.mayFollowConfig) await this.#placeRam();
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
      await this.#failure.race(this.#faultChannel);
    } finally {
      clearTimeout(timer);
    }
  }

  /** Takes the guest over, RAM first where it comes on demand, and says so. */
  async #complete(main: RangeThread, command: CommandName): Promise<boolean> {
    const { guest, memory } = this.#job;
    if (memory === "on-demand") {
      this.#attempt.step = "fetching RAM";
      const faults = await this.#faultChannel;
      await this.#failure.race(this.#ram!.fetchAll(faults));
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

  // ---- additional channels ----

  #letChannelsIn(reception: Reception): void {
    const over = AbortSignal.any([this.#memoryOver.signal, this.#attempt.signal]);
    const accept = async () => {
      for (;;) {
        const channel = await reception.next(over);
        if (channel === null) return;
        if (++this.#accepted > CONNECTIONS_MAX) {
          channel.close();
          throw new ProtocolError("CHANNELS_TOO_MANY", `more than ${CONNECTIONS_MAX} additional channels came`);
        }
        this.#serving.push(this.#serveAdditional(reception, channel, this.#accepted, over));
      }
    };
    this.#serving.push(accept().catch((error: unknown) => this.#failure.fail(error)));
  }

  async #serveAdditional(reception: Reception, channel: Channel, number: number, over: AbortSignal): Promise<void> {
    let thread: RangeThread | null = null;
    try {
      await reception.secured(channel, over);
      thread = this.#threads.take();
      this.#additional.add(thread);
      thread.attach(channel, `channel ${number - 1}`, this.#counters, number);
      if (this.#failure.failed) thread.shutDown();
      await this.#introduce(thread);
    } catch (error) {
      // A channel that fails takes the migration with it, and hears that first.
      if (thread !== null && !this.#failure.failed && error instanceof ProtocolError) sayError(thread);
      this.#failure.fail(error);
    }
  }

  /** Finds out what an additional channel is for: by its role, or, from 52.0, by its first command. */
  async #introduce(thread: RangeThread): Promise<void> {
    const silence = setTimeout(() => thread.shutDown(), this.#job.handshakeTimeoutMs);
    let first: Uint8Array | null;
    try {
      first = await receiveOrEnd(thread, CONNECTION_ROLE_BYTES, "the role of a channel").catch(() => null);
    } finally {
      clearTimeout(silence);
    }
    if (first === null) return this.#retire(thread); // it never said what it is: no part of this
    const word = new DataView(first.buffer, first.byteOffset).getUint16(0, true);
    const memory = this.#job.era.connections;
    if (word === CONNECTION_ROLE.fault && memory === "with-role" && this.#job.memory === "on-demand") {
      const ram = await this.#placeRam();
      ram.useBlocks(thread);
      this.#faultChannelCame(thread);
      return;
    }
    if (word === CONNECTION_ROLE.memory && memory === "with-role") return this.#followMemory(thread, null);
    if (commandName(word) === "memory" && memory !== "none") return this.#followMemory(thread, first);
    return this.#retire(thread);
  }

  /** Takes Memory commands until the channel ends between two of them. @param begun  The first bytes of the first. */
  async #followMemory(thread: RangeThread, begun: Uint8Array | null): Promise<void> {
    let ram: IncomingRam | null = null;
    for (let start = begun; ; start = null) {
      const rest = await receiveOrEnd(thread, REQUEST_BYTES - (start?.length ?? 0), "a request");
      if (rest === null) return start === null ? this.#retire(thread) : this.#cutBegun(thread);
      const { command, payloadBytes } = migrationRequest.decode(start === null ? rest : Buffer.concat([start, rest]));
      if (commandName(command) !== "memory")
        throw new ProtocolError("COMMAND_OUT_OF_ORDER", `${thread.name}: command ${command} came, memory was due`);
      if (this.#memoryOver.signal.aborted)
        throw new ProtocolError("COMMAND_OUT_OF_ORDER", `${thread.name}: memory came behind state`);
      this.#busy++;
      if (ram === null) {
        ram = await this.#ramOfStream();
        ram.useBlocks(thread);
      }
      await this.#takeMemory(thread, ram, payloadBytes);
      this.#busy--; // before the answer: the source may say State as soon as it has it
      await thread.send(encodeResponse("ok"));
    }
  }

  #cutBegun(thread: RangeThread): never {
    throw new ChannelError("CHANNEL_CUT", `${thread.name}: the peer closed inside a request`);
  }

  async #retire(thread: RangeThread): Promise<void> {
    this.#additional.delete(thread);
    thread.shutDown();
    await this.#threads.giveBack(thread);
  }

  // ---- the end ----

  /** Undoes everything and tells the source, whose guest then goes on. */
  async #giveBack(error: unknown): Promise<unknown> {
    const { guest } = this.#job;
    // A guest that `commit` may have started must be stopped before the source can hear of it; otherwise the source
    // hears first, for its guest may be waiting.
    if (this.#committing) await guest.abandon();
    const main = this.#main;
    if (main !== null && !this.#refusalSent && !(error instanceof ChannelError && NOT_TOLD.has(error.code))) {
      sayError(main);
      await within(FAREWELL_MS, this.#hearAbandon(main));
    }
    await this.#close();
    if (!this.#committing) await guest.abandon();
    return error;
  }

  /** Reads past what was refused, and answers one Abandon. */
  async #hearAbandon(main: RangeThread): Promise<void> {
    while (this.#unreadBytes <= SKIP_BYTES_MAX) {
      const coming = this.#coming;
      this.#coming = null;
      if (coming === null && this.#unreadBytes > 0) await receiveExact(main, this.#unreadBytes, "what was refused");
      const wire = await (coming ?? receiveExact(main, REQUEST_BYTES, "abandon"));
      if (wire === null) return;
      const { command, payloadBytes } = migrationRequest.decode(wire);
      if (commandName(command) === "abandon") {
        await main.send(encodeResponse("ok"));
        return;
      }
      this.#unreadBytes = payloadBytes;
    }
    // Where the next request begins is not known: read on, so that our closing is no reset that overtakes our word.
    while ((await main.receive(SKIP_BYTES_MAX)).length > 0);
  }

  async #close(): Promise<void> {
    this.#memoryOver.abort();
    this.#main?.shutDown();
    for (const thread of this.#additional) thread.shutDown();
    await Promise.all(this.#serving.splice(0));
    for (const thread of [...this.#additional, ...(this.#main === null ? [] : [this.#main])])
      await this.#threads.giveBack(thread);
    this.#additional.clear();
    this.#main = null;
    this.#ram?.close();
    this.#ram = null;
    if (this.#job.threads === undefined) await this.#threads.end();
  }

  async #closeAll(): Promise<void> {
    this.#meter.stop();
    this.#memoryOver.abort();
    await this.#reception?.close();
    await this.#close();
    this.#descriptors.close();
  }

  #totals(): MigrationTotals {
    const { wireBytes, normalPages } = sumCounters(this.#counters);
    return {
      ramBytes: this.#map?.ramBytes ?? 0,
      wireBytes,
      normalPages: Math.round(normalPages),
      zeroPages: 0,
      rounds: this.#rounds,
    };
  }
}

const NO_PAYLOAD: ReadonlySet<CommandName> = new Set<CommandName>(["start", "complete", "completePaused", "abandon"]);
/** The source is gone, so nobody is left to be told; or nobody knows whether the guest runs, so it must not hear that it does not. */
const NOT_TOLD: ReadonlySet<string> = new Set(["CHANNEL_CUT", "CHANNEL_BROKEN", "ACKNOWLEDGEMENT_LOST"]);

/** At once, from this thread: the channel's own may be blocked, and so few bytes always find room. */
function sayError(thread: RangeThread): void {
  try {
    if (thread.channel !== null) sendBytes(thread.channel.descriptor, encodeResponse("error"));
  } catch (error) {
    if (!(placeError(error, thread.name) instanceof ChannelError)) throw error;
  }
}
