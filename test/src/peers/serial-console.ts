/**
 * Serial console: a guest's shell behind QEMU's `-serial unix:PATH,server=on,wait=off`.
 *
 * A command is answered when the marker behind it comes back computed: what the guest
 * echoes of our typing never looks like it.
 */
import { createConnection, type Socket } from "node:net";

const ANSWER_MS = 60_000;

export class SerialConsole {
  readonly #socket: Socket;
  #text = "";
  #commands = 0;
  #wake: () => void = () => {};

  private constructor(socket: Socket) {
    this.#socket = socket;
    socket.setEncoding("utf8");
    socket.on("data", (text) => {
      this.#text += String(text);
      this.#wake();
    });
    socket.on("error", () => this.#wake());
    socket.on("close", () => this.#wake());
  }

  static async connect(path: string): Promise<SerialConsole> {
    const socket = createConnection(path);
    await new Promise<void>((resolve, reject) => {
      socket.once("connect", resolve);
      socket.once("error", reject);
    });
    return new SerialConsole(socket);
  }

  /**
   * Waits for a text and takes everything up to its end.
   *
   * @returns What came before it.
   * @throws {Error} with what came instead.
   */
  async waitFor(text: string, timeoutMs: number = ANSWER_MS): Promise<string> {
    const timer = setTimeout(() => this.#socket.destroy(), timeoutMs);
    try {
      for (;;) {
        const at = this.#text.indexOf(text);
        if (at >= 0) {
          const before = this.#text.slice(0, at);
          this.#text = this.#text.slice(at + text.length);
          return before;
        }
        if (this.#socket.destroyed) {
          throw new Error(`serial console: no "${text}" within ${timeoutMs} ms; it said "${this.#text.slice(-2000)}"`);
        }
        await new Promise<void>((wake) => {
          this.#wake = wake;
        });
      }
    } finally {
      clearTimeout(timer);
    }
  }

  /** Types a command and returns what it printed. */
  async run(command: string): Promise<string> {
    const number = ++this.#commands;
    // The guest's terminal echoes the command before it runs it: two markers keep that apart from the answer.
    this.#socket.write(`echo begin-$((${number}+0)); ${command}; echo end-$((${number}+0))\n`);
    await this.waitFor(`begin-${number}\r\n`);
    return (await this.waitFor(`end-${number}\r\n`)).trim();
  }

  close(): void {
    this.#socket.destroy();
  }
}
