/**
 * Link: a proxy between the two ends of a migration, which a test can cut, or hold up for a while.
 */
import { createConnection, createServer, type Socket } from "node:net";
import { Transform } from "node:stream";

/** One connection that is slower than the others, by the order in which they were made. */
export type SlowConnection = { readonly number: number; readonly bytesPerSecond: number };

export class Link {
  readonly #sockets: Socket[] = [];
  readonly #server = createServer((near) => this.#join(near));
  readonly #to: string;
  readonly #slow: SlowConnection | null;

  private constructor(to: string, slow: SlowConnection | null) {
    this.#to = to;
    this.#slow = slow;
  }

  /** Listens on one unix socket and passes everything on to another, both ways. */
  static async open(path: string, to: string, slow: SlowConnection | null = null): Promise<Link> {
    const link = new Link(to, slow);
    await new Promise<void>((resolve, reject) => {
      link.#server.once("error", reject);
      link.#server.listen(path, resolve);
    });
    return link;
  }

  #join(near: Socket): void {
    const far = createConnection(this.#to);
    const isSlow = this.#sockets.length / 2 === this.#slow?.number;
    this.#sockets.push(near, far);
    for (const [from, to] of [
      [near, far],
      [far, near],
    ] as const) {
      from.on("error", () => {});
      from.on("close", () => to.destroy());
      if (isSlow) from.pipe(delayed(this.#slow!.bytesPerSecond)).pipe(to);
      else from.pipe(to);
    }
  }

  /** Breaks every connection, and takes no new one. */
  cut(): void {
    this.#server.close();
    for (const socket of this.#sockets) socket.destroy();
  }

  /** Passes nothing on until `release`; nothing is lost. */
  hold(): void {
    for (const socket of this.#sockets) {
      socket.unpipe();
      socket.pause();
    }
  }

  release(): void {
    this.#sockets.forEach((socket, index) => {
      const peer = this.#sockets[index ^ 1]!;
      if (!socket.destroyed) socket.pipe(peer);
    });
  }
}

function delayed(bytesPerSecond: number): Transform {
  return new Transform({
    transform: (piece: Buffer, _, pass) => {
      setTimeout(() => pass(null, piece), (piece.length / bytesPerSecond) * 1000);
    },
  });
}
