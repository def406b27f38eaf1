/**
 * Link: a proxy between the two ends of a migration, which a test can cut, or hold up for a while.
 */
import { createConnection, createServer, type Socket } from "node:net";

export class Link {
  readonly #sockets: Socket[] = [];
  readonly #server = createServer((near) => this.#join(near));
  readonly #to: string;

  private constructor(to: string) {
    this.#to = to;
  }

  /** Listens on one unix socket and passes everything on to another, both ways. */
  static async open(path: string, to: string): Promise<Link> {
    const link = new Link(to);
    await new Promise<void>((resolve, reject) => {
      link.#server.once("error", reject);
      link.#server.listen(path, resolve);
    });
    return link;
  }

  #join(near: Socket): void {
    const far = createConnection(this.#to);
    this.#sockets.push(near, far);
    for (const [from, to] of [
      [near, far],
      [far, near],
    ] as const) {
      from.on("error", () => {});
      from.on("close", () => to.destroy());
      from.pipe(to);
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
