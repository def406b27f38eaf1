/**
 * Gateway: stands before a real destination and holds the stream back at a point that a test names.
 *
 * Knows nothing of the protocol but that the first connection is the main channel.
 * Up to its point it passes everything on, each connection at its own pace; then nothing
 * more, and the test does to the destination what it is about. A connection
 * that the destination closes is closed towards the source as well.
 */
import { createConnection, createServer, type Socket } from "node:net";

/** Where it stops. */
export type HoldPoint =
  /** @param seen  All of the main channel so far. @returns how much of it passes, or null for all. */
  | { readonly main: (seen: Buffer) => number | null }
  /** Behind so many bytes of any other channel. */
  | { readonly channelBytes: number };

export type Gateway = {
  /** Resolves when the point is reached: what stands before it has been passed on, nothing behind it will be. */
  readonly held: Promise<void>;
  close(): Promise<void>;
};

/** Listens on one unix socket and passes on to another. */
export async function startGateway(path: string, to: string, point: HoldPoint): Promise<Gateway> {
  const sockets: Socket[] = [];
  let isHeld = false;
  let hold: () => void = () => {};
  const held = new Promise<void>((resolve) => {
    hold = () => {
      isHeld = true;
      resolve();
    };
  });
  const server = createServer((source) => {
    const isMain = sockets.length === 0;
    const target = createConnection(to);
    sockets.push(source, target);
    let seen = Buffer.alloc(0);
    let passedBytes = 0;
    source.on("data", (chunk: Buffer) => {
      if (isHeld) {
        source.pause(); // and let the source's own buffers fill
        return;
      }
      if (isMain) seen = Buffer.concat([seen, chunk]);
      const end = isMain ? endOnMain(point, seen) : endOnChannel(point);
      const passed = end === null ? chunk : chunk.subarray(0, Math.max(0, end - passedBytes));
      passedBytes += passed.length;
      const reached = end !== null && passedBytes >= end;
      if (!target.write(passed, () => reached && hold())) {
        source.pause();
        target.once("drain", () => source.resume());
      }
    });
    target.pipe(source);
    for (const [near, far] of [
      [source, target],
      [target, source],
    ] as const) {
      near.on("error", () => {});
      near.on("close", () => far.destroy());
    }
  });
  await new Promise<void>((resolve, reject) => {
    server.once("error", reject);
    server.listen(path, resolve);
  });
  return {
    held,
    close: async () => {
      for (const socket of sockets) socket.destroy();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}

function endOnMain(point: HoldPoint, seen: Buffer): number | null {
  return "main" in point ? point.main(seen) : null;
}

function endOnChannel(point: HoldPoint): number | null {
  return "channelBytes" in point ? point.channelBytes : null;
}
