/**
 * Remote place: another machine as the place where destinations run.
 *
 * Everything else is as it is with one machine: the source runs here, and says how
 * long it took. What came in is verified by its digest.
 */
import { createConnection, type Socket } from "node:net";
import { type Address, formatAddress } from "@multifd/channel";
import type { QemuVersion } from "@multifd/test/peers";
import type { Arrival, ArrivedDestination, Place } from "../destinations.js";
import { COMPLETION_TIMEOUT_MS } from "../endpoint.js";
import type { Machine } from "../machine.js";
import type { Usage } from "../process-meter.js";
import { arrivalMessage, FORMAT } from "./arrival-message.js";
import { type Message, readLines, writeLine } from "./line-channel.js";
import { digestOf } from "./listener.js";

const CONNECT_TIMEOUT_MS = 10_000;
const START_TIMEOUT_MS = 60_000;

type Waiter = { readonly resolve: (answer: Message) => void; readonly reject: (error: Error) => void };

export class RemotePlace implements Place {
  readonly #socket: Socket;
  readonly #name: string;
  readonly #waiters = new Map<number, Waiter>();
  #nextId = 1;
  #ended: string | null = null;
  #machine: Machine | null = null;
  #hasQemu = false;

  constructor(socket: Socket, name: string) {
    this.#socket = socket;
    this.#name = name;
    readLines(
      socket,
      (answer) => this.#hear(answer),
      (why) => this.#end(why),
    );
  }

  get machine(): Machine | null {
    return this.#machine;
  }

  /** Whether the QEMU to compare with is installed there. */
  get hasQemu(): boolean {
    return this.#hasQemu;
  }

  async greet(qemu: QemuVersion): Promise<void> {
    const said = await this.#ask({ ask: "hello", format: FORMAT }, CONNECT_TIMEOUT_MS);
    const { machine, hasQemu, qemu: theirs } = said as { machine?: Machine; hasQemu?: unknown; qemu?: unknown };
    if (theirs !== qemu) throw new Error(`${this.#name} compares with QEMU ${theirs}; give both the same --qemu`);
    this.#machine = machine ?? null;
    this.#hasQemu = hasQemu === true;
  }

  readonly start = async (arrival: Arrival): Promise<ArrivedDestination> => {
    const started = await this.#ask({ ask: "start", ...arrivalMessage(arrival) }, START_TIMEOUT_MS);
    return {
      address: String((started as { address?: unknown }).address),
      warm: async () => {
        await this.#ask({ ask: "warm" }, START_TIMEOUT_MS);
      },
      completed: async () => ((await this.#ask({ ask: "completed" }, COMPLETION_TIMEOUT_MS)) as { usage: Usage }).usage,
      verify: async (imagePath) => {
        const { digest } = (await this.#ask({ ask: "digest" }, COMPLETION_TIMEOUT_MS)) as { digest?: unknown };
        if (digest !== (await digestOf(imagePath))) throw new Error(`what ${this.#name} received is not the image`);
      },
      stop: async () => {
        if (this.#ended === null) await this.#ask({ ask: "stop" }, START_TIMEOUT_MS);
      },
    };
  };

  close(): void {
    this.#socket.destroy();
  }

  #ask(question: Message, timeoutMs: number): Promise<Message> {
    return new Promise((resolve, reject) => {
      if (this.#ended !== null) {
        reject(new Error(`${this.#name}: ${this.#ended}`));
        return;
      }
      const id = this.#nextId++;
      const timer = setTimeout(() => {
        this.#waiters.delete(id);
        reject(new Error(`${this.#name}: no answer within ${timeoutMs} ms`));
      }, timeoutMs);
      const done = () => {
        clearTimeout(timer);
        this.#waiters.delete(id);
      };
      this.#waiters.set(id, {
        resolve: (answer) => {
          done();
          resolve(answer);
        },
        reject: (error) => {
          done();
          reject(error);
        },
      });
      writeLine(this.#socket, { ...question, id });
    });
  }

  #hear(answer: Message): void {
    const { id, error } = answer as { readonly id?: unknown; readonly error?: unknown };
    if (id === 0) this.#end(String(error)); // it is about the connection, not a question
    const waiter = this.#waiters.get(Number(id));
    if (error === undefined) waiter?.resolve(answer);
    else waiter?.reject(new Error(`${this.#name}: ${String(error)}`));
  }

  #end(why: string): void {
    this.#ended ??= why;
    for (const { reject } of [...this.#waiters.values()]) reject(new Error(`${this.#name}: ${this.#ended}`));
  }
}

/** @throws {Error} where nobody answers, or a bench that does not fit this one. */
export async function connectPlace(to: Address, qemu: QemuVersion): Promise<RemotePlace> {
  const name = `the bench at ${formatAddress(to)}`;
  const socket = createConnection(to.kind === "tcp" ? { host: to.host, port: to.port } : { path: to.path });
  const place = new RemotePlace(socket, name);
  try {
    await place.greet(qemu);
    return place;
  } catch (error) {
    place.close();
    throw error;
  }
}
