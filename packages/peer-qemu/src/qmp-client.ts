/**
 * QMP client: QEMU's control socket, one JSON object a line.
 *
 * QEMU greets, we leave its negotiation mode, and from then on commands and
 * answers are paired by `id` while events come in between at any time. Every
 * event since the connection is logged, so a wait begun after the event still
 * finds it; `waitForEvent` takes what it finds, so that a second wait means a
 * second event. When QEMU dies or says something that is no QMP, everything that
 * waits is rejected at once, by the name of what it waited for.
 *
 * Owns the socket. Runs on the coordinator thread.
 * Source: QEMU 10.2, docs/interop/qmp-spec.rst.
 */
import { createConnection, type Socket } from "node:net";
import { ChannelError, type MigrationError, ProtocolError } from "@multifd/protocol";

/** An event as QEMU sent it; `data` is empty where the event has none. */
export type QmpEvent = { readonly event: string; readonly data: Readonly<Record<string, unknown>> };

type PendingCommand = {
  readonly command: string;
  readonly resolve: (value: unknown) => void;
  readonly reject: (error: MigrationError) => void;
  readonly timer: NodeJS.Timeout;
};
type LoggedEvent = { readonly event: QmpEvent; taken: boolean };
type Message = {
  QMP?: unknown;
  id?: unknown;
  return?: unknown;
  error?: { class?: string; desc?: string };
  event?: string;
  data?: Record<string, unknown>;
};

const COMMAND_TIMEOUT_MS = 10_000;
/** The longest answer seen, query-qmp-schema's, is 0.3 MiB. */
const LINE_CHARACTERS_MAX = 16 * 2 ** 20;
/** Events kept for waits that come later; a migration raises some twenty. */
const EVENTS_MAX = 4096;
/** What to do about a socket that cannot be connected to, by the system's error code. */
const CONNECT_REMEDIES: Readonly<Record<string, string>> = {
  ENOENT: "start QEMU with -qmp unix:PATH,server=on,wait=off",
  ECONNREFUSED: "the QEMU that made this socket has ended",
  EACCES: "it belongs to another user",
};

export class QmpClient {
  readonly #socket: Socket;
  readonly #name: string;
  readonly #pending = new Map<number, PendingCommand>();
  readonly #watchers = new Set<() => void>();
  #log: LoggedEvent[] = [];
  /** Events dropped from the front of the log. */
  #dropped = 0;
  #nextId = 1;
  #partialLine = "";
  #greeted = false;
  #failure: MigrationError | null = null;

  private constructor(socket: Socket, name: string) {
    this.#socket = socket;
    this.#name = name;
    socket.setEncoding("utf8");
    socket.on("data", (text) => this.#read(String(text)));
    socket.on("error", (cause: NodeJS.ErrnoException) => {
      const remedy = CONNECT_REMEDIES[cause.code ?? ""] ?? "see whether QEMU still runs";
      this.#fail(new ChannelError("QMP_CLOSED", `${name}: ${cause.message}; ${remedy}`, { cause }));
    });
    socket.on("close", () => this.#fail(new ChannelError("QMP_CLOSED", `${name}: QEMU closed its QMP socket`)));
  }

  /**
   * Connects to the socket of `-qmp unix:PATH,server=on,wait=off` and readies it for commands.
   *
   * @throws {ChannelError} QMP_CLOSED or QMP_TIMEOUT; {ProtocolError} QMP_MALFORMED, if no QEMU listens there.
   */
  static connect(path: string, timeoutMs = COMMAND_TIMEOUT_MS): Promise<QmpClient> {
    return QmpClient.attach(createConnection(path), `QMP ${path}`, timeoutMs);
  }

  /** As `connect`, over a socket that exists, as when QEMU dialled us (`-qmp unix:PATH`). Takes the socket over. */
  static async attach(socket: Socket, name: string, timeoutMs = COMMAND_TIMEOUT_MS): Promise<QmpClient> {
    const client = new QmpClient(socket, name);
    try {
      const greeted = await client.#watch(() => client.#greeted || null, timeoutMs);
      if (!greeted) {
        throw new ChannelError(
          "QMP_TIMEOUT",
          `${name}: no greeting within ${timeoutMs} ms; QEMU serves one at a time: whoever else is connected (a management tool, another command) has to leave, or give QEMU a second -qmp`,
        );
      }
      await client.execute("qmp_capabilities", {}, timeoutMs);
      return client;
    } catch (error) {
      client.close();
      throw error;
    }
  }

  /**
   * Runs one command and resolves to what QEMU returned.
   *
   * @throws {ProtocolError} QMP_COMMAND_FAILED, with QEMU's error class and description.
   * @throws {ChannelError} QMP_TIMEOUT when no answer came in time (one that comes later is dropped); QMP_CLOSED.
   */
  execute(command: string, args: Readonly<Record<string, unknown>> = {}, timeoutMs = COMMAND_TIMEOUT_MS) {
    return new Promise<unknown>((resolve, reject) => {
      if (this.#failure) {
        reject(this.#closedDuring(`command ${command}`, this.#failure));
        return;
      }
      const id = this.#nextId++;
      const timer = setTimeout(() => {
        this.#pending.delete(id);
        const message = `${this.#name}: ${command} got no answer within ${timeoutMs} ms; QEMU's main loop may hang`;
        reject(new ChannelError("QMP_TIMEOUT", message));
      }, timeoutMs);
      this.#pending.set(id, { command, resolve, reject, timer });
      this.#socket.write(`${JSON.stringify({ execute: command, arguments: args, id })}\n`);
    });
  }

  /**
   * Takes the oldest event of that name which the predicate accepts, be it in the log or still to come.
   *
   * @throws {ChannelError} QMP_TIMEOUT or QMP_CLOSED.
   */
  async waitForEvent(
    name: string,
    accepts: (data: Readonly<Record<string, unknown>>) => boolean = () => true,
    timeoutMs = COMMAND_TIMEOUT_MS,
  ): Promise<QmpEvent> {
    const take = () => {
      const found = this.#log.find((entry) => !entry.taken && entry.event.event === name && accepts(entry.event.data));
      if (found) found.taken = true;
      return found?.event ?? null;
    };
    const event = await this.#watch(take, timeoutMs, `event ${name}`);
    if (event) return event;
    const seen = this.#log.map((entry) => entry.event.event).join(", ");
    throw new ChannelError("QMP_TIMEOUT", `${this.#name}: no event ${name} within ${timeoutMs} ms; seen: ${seen}`);
  }

  /**
   * Every event since the connection, then each new one; ends when the socket closes.
   *
   * @throws {ChannelError} QMP_EVENTS_LOST, if the reader falls 4096 events behind.
   */
  async *events(): AsyncGenerator<QmpEvent, void, undefined> {
    for (let at = 0; ; at++) {
      while (at >= this.#dropped + this.#log.length) {
        if (this.#failure) return;
        await new Promise<void>((wake) => {
          const watcher = () => {
            this.#watchers.delete(watcher);
            wake();
          };
          this.#watchers.add(watcher);
        });
      }
      const entry = this.#log[at - this.#dropped];
      if (!entry)
        throw new ChannelError("QMP_EVENTS_LOST", `${this.#name}: event ${at} is no longer kept; read faster`);
      yield entry.event;
    }
  }

  /** Closes the socket; whatever still waits is rejected with QMP_CLOSED. */
  close(): void {
    this.#fail(new ChannelError("QMP_CLOSED", `${this.#name}: closed at this end`));
  }

  /** Resolves to what `look` finds now or after a later message, or to null when the time is over. */
  #watch<T>(look: () => T | null, timeoutMs: number, what = "greeting"): Promise<T | null> {
    return new Promise((resolve, reject) => {
      const settle = (done: () => void) => {
        clearTimeout(timer);
        this.#watchers.delete(watcher);
        done();
      };
      const timer = setTimeout(() => settle(() => resolve(null)), timeoutMs);
      const watcher = () => {
        const found = look();
        const failure = this.#failure;
        if (found !== null) settle(() => resolve(found));
        else if (failure) settle(() => reject(this.#closedDuring(what, failure)));
      };
      this.#watchers.add(watcher);
      watcher();
    });
  }

  #closedDuring(what: string, cause: MigrationError): MigrationError {
    const message = `${cause.message} (while waiting for ${what})`;
    if (cause instanceof ProtocolError) return new ProtocolError(cause.code, message, { cause });
    return new ChannelError(cause.code, message, { cause });
  }

  #read(text: string): void {
    const lines = (this.#partialLine + text).split("\n");
    this.#partialLine = lines.pop() ?? "";
    if (this.#partialLine.length > LINE_CHARACTERS_MAX) {
      this.#fail(
        new ProtocolError("QMP_MALFORMED", `${this.#name}: a line of more than ${LINE_CHARACTERS_MAX} characters`),
      );
      return;
    }
    for (const line of lines) {
      if (this.#failure) return;
      if (line.trim() !== "") this.#handle(line);
    }
  }

  #handle(line: string): void {
    let message: Message | null;
    try {
      message = JSON.parse(line) as Message | null;
    } catch {
      message = null;
    }
    if (message === null || typeof message !== "object") {
      const start = JSON.stringify(line.slice(0, 80));
      this.#fail(
        new ProtocolError("QMP_MALFORMED", `${this.#name}: ${start} is no QMP message; is this a QMP socket?`),
      );
    } else if (message.QMP !== undefined) {
      this.#greeted = true;
      this.#wakeWatchers();
    } else if (message.event !== undefined) {
      this.#logEvent({ event: message.event, data: message.data ?? {} });
    } else if (message.id === undefined) {
      this.#fail(new ProtocolError("QMP_MALFORMED", `${this.#name}: an answer without id: ${line.slice(0, 200)}`));
    } else {
      this.#answer(Number(message.id), message);
    }
  }

  #answer(id: number, message: Message): void {
    const pending = this.#pending.get(id);
    if (!pending) return; // its time was over
    this.#pending.delete(id);
    clearTimeout(pending.timer);
    if (message.error) {
      const reason = `${message.error.class}: ${message.error.desc}`;
      pending.reject(new ProtocolError("QMP_COMMAND_FAILED", `${this.#name}: ${pending.command} refused, ${reason}`));
    } else {
      pending.resolve(message.return);
    }
  }

  #logEvent(event: QmpEvent): void {
    this.#log.push({ event, taken: false });
    if (this.#log.length > EVENTS_MAX) {
      this.#log.shift();
      this.#dropped++;
    }
    this.#wakeWatchers();
  }

  #wakeWatchers(): void {
    for (const watcher of [...this.#watchers]) watcher();
  }

  #fail(error: MigrationError): void {
    if (this.#failure) return;
    this.#failure = error;
    this.#socket.destroy();
    for (const pending of this.#pending.values()) {
      clearTimeout(pending.timer);
      pending.reject(this.#closedDuring(`command ${pending.command}`, error));
    }
    this.#pending.clear();
    this.#wakeWatchers();
  }
}
