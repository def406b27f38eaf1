/**
 * Request reader: the main channel as a destination hears it, one request after another.
 *
 * It knows how many bytes stand between what has been read and the next request.
 * Behind a refusal that is all there is to find Abandon by, which sources before
 * 53.0 say then; where it cannot be known, the channel is only read empty.
 */
import type { RangeThread } from "@multifd/engine";
import {
  ChannelError,
  type CommandName,
  commandName,
  type Era,
  encodeResponse,
  knowsCommand,
  migrationRequest,
  ProtocolError,
  REQUEST_BYTES,
  type ReceiverState,
} from "@multifd/protocol";
import { receiveExact, receiveOrEnd } from "./exchange.js";

/** What is read past, of a request that was refused, to find the next one. */
const SKIP_BYTES_MAX = 2 ** 20;
const NO_PAYLOAD: ReadonlySet<CommandName> = new Set<CommandName>(["start", "complete", "completePaused", "abandon"]);

export type Request = { readonly command: CommandName; readonly payloadBytes: number; readonly version: number };

export class RequestReader {
  readonly #thread: RangeThread;
  readonly #era: Era;
  #unreadBytes = 0;
  /** The next request, ordered from the thread; whoever gives up still has to take it from here. */
  #coming: Promise<Uint8Array | null> | null = null;
  /** What follows a request, as long as it is being taken. */
  #taking: Promise<unknown> = Promise.resolve();

  /** @param thread  Attached; stays the caller's. */
  constructor(thread: RangeThread, era: Era) {
    this.#thread = thread;
    this.#era = era;
  }

  /**
   * Waits for the next request; its payload is still to be taken.
   *
   * @param state  For messages.
   * @throws {ProtocolError} COMMAND_UNKNOWN, COMMAND_LENGTH, WIRE_NUMBER_TOO_LARGE; {ChannelError} CHANNEL_CUT.
   */
  async next(state: ReceiverState): Promise<Request> {
    this.#coming = receiveOrEnd(this.#thread, REQUEST_BYTES, "a request");
    const wire = await this.#coming;
    this.#coming = null;
    if (wire !== null) return this.#judge(wire);
    throw (
      (await this.#thread.reasonOfEnd()) ??
      new ChannelError(
        "CHANNEL_CUT",
        `${this.#thread.name}: the source closed in state ${state}, before the guest was complete; its own log says why`,
      )
    );
  }

  #judge(wire: Uint8Array): Request {
    this.#unreadBytes = Number.POSITIVE_INFINITY; // until the length is known to be one
    const { command, version, payloadBytes } = migrationRequest.decode(wire);
    this.#unreadBytes = payloadBytes;
    const name = commandName(command);
    if (name === null || name === "pageFault" || !knowsCommand(this.#era, name))
      throw new ProtocolError(
        "COMMAND_UNKNOWN",
        `${name ?? "a command"} (${command}) came, which Cloud Hypervisor ${this.#era.releases} does not take`,
      );
    if (NO_PAYLOAD.has(name) && payloadBytes !== 0)
      throw new ProtocolError("COMMAND_LENGTH", `${name} announces ${payloadBytes} bytes, none were due`);
    return { command: name, payloadBytes, version };
  }

  /** Takes a request's payload. @throws {ProtocolError} COMMAND_LENGTH; {ChannelError} CHANNEL_CUT. */
  async payload({ command, payloadBytes }: Request, bytesMax: number): Promise<Uint8Array<ArrayBuffer>> {
    if (payloadBytes > bytesMax)
      throw new ProtocolError(
        "COMMAND_LENGTH",
        `${command} announces ${payloadBytes} bytes, at most ${bytesMax} are taken`,
      );
    return this.reading(() => receiveExact(this.#thread, payloadBytes, `the payload of ${command}`));
  }

  /** Takes what follows a request. Where that fails, nobody knows where the next one begins. */
  reading<Value>(take: () => Promise<Value>): Promise<Value> {
    this.#unreadBytes = Number.POSITIVE_INFINITY;
    return this.#watch(
      take().then((value) => {
        this.#unreadBytes = 0;
        return value;
      }),
    );
  }

  /** Takes just what the request announced, even if it is refused then. */
  readingAll<Value>(take: () => Promise<Value>): Promise<Value> {
    this.#unreadBytes = 0;
    return this.#watch(take());
  }

  #watch<Value>(taking: Promise<Value>): Promise<Value> {
    this.#taking = taking;
    return taking;
  }

  /** Reads past what was refused, and answers one Abandon. Settles when the source closes, at the latest. */
  async hearAbandon(): Promise<void> {
    const thread = this.#thread;
    await this.#taking.catch(() => {}); // whoever gave up may have done so in the midst of it
    while (this.#unreadBytes <= SKIP_BYTES_MAX) {
      const coming = this.#coming;
      this.#coming = null;
      if (coming === null && this.#unreadBytes > 0) await receiveExact(thread, this.#unreadBytes, "what was refused");
      const wire = await (coming ?? receiveExact(thread, REQUEST_BYTES, "abandon"));
      if (wire === null) return;
      const { command, payloadBytes } = migrationRequest.decode(wire);
      if (commandName(command) === "abandon") {
        await thread.send(encodeResponse("ok"));
        return;
      }
      this.#unreadBytes = payloadBytes;
    }
    // Read on, so that our closing is no reset that overtakes our word.
    while ((await thread.receive(SKIP_BYTES_MAX)).length > 0);
  }
}
