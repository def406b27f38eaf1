/**
 * Greeting: a source's question whether the destination says hello, and its answer.
 *
 * The question is a PING of its own value. Whoever answers its PONG without a hello before it keeps to
 * QEMU's wire. Whoever reads the return path tells what came there.
 */
import { ChannelError, HELLO_PING, type Hello, type PacketMethod, ProtocolError } from "@multifd/protocol";
import { commonMethods } from "./hello-methods.js";

/** What of the return path concerns a greeting. */
export type GreetingMessage =
  | { readonly kind: "hello"; readonly hello: Hello }
  | { readonly kind: "pong"; readonly value: number };

export class Greeting {
  readonly #ours: readonly PacketMethod[];
  readonly #answer: Promise<readonly PacketMethod[] | null>;
  #settle: (methods: readonly PacketMethod[] | null) => void = () => {};
  #isOpen = true;

  /** @param ours  What this side says hello for. */
  constructor(ours: readonly PacketMethod[]) {
    this.#ours = ours;
    this.#answer = new Promise((resolve) => {
      this.#settle = resolve;
    });
  }

  /** Nothing has answered yet. */
  get isOpen(): boolean {
    return this.#isOpen;
  }

  /** @throws {ProtocolError} HELLO_UNEXPECTED, HELLO_METHODS. */
  hear(message: GreetingMessage): void {
    if (message.kind === "pong" && message.value !== HELLO_PING) return;
    if (message.kind === "hello" && !this.#isOpen) throw unexpected();
    this.#isOpen = false;
    this.#settle(message.kind === "hello" ? commonMethods(this.#ours, message.hello) : null);
  }

  /**
   * Waits for the answer.
   *
   * @returns The methods that packets may bear, or null where there was no hello.
   * @throws {ChannelError} HELLO_TIMEOUT.
   */
  async answered(timeoutMs: number): Promise<readonly PacketMethod[] | null> {
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<never>((_, reject) => {
      timer = setTimeout(() => {
        const message = `the destination did not answer a PING within ${timeoutMs} ms; is it stopped, or its return path off?`;
        reject(new ChannelError("HELLO_TIMEOUT", message));
      }, timeoutMs);
    });
    try {
      return await Promise.race([this.#answer, late]);
    } finally {
      clearTimeout(timer);
    }
  }
}

/** As `Greeting.hear`, for who may not have asked. */
export function hear(greeting: Greeting | null, message: GreetingMessage): void {
  if (greeting !== null) greeting.hear(message);
  else if (message.kind === "hello") throw unexpected();
}

function unexpected(): ProtocolError {
  return new ProtocolError(
    "HELLO_UNEXPECTED",
    "return path: a hello came that nobody asked for; the peer is no multifd",
  );
}
