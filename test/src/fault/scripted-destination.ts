/**
 * Scripted destination: takes in whatever comes, up to the moment at which it fails as the test says.
 *
 * Knows nothing of the protocol but how a main channel begins and ends, so that a
 * source meets it exactly as it would meet a peer that dies or hangs.
 */
import { createServer, type Server, type Socket } from "node:net";

export type Script = {
  /** Closes all of them as soon as so many connections are there. */
  readonly closeAtConnections?: number;
  /** Closes everything when that much has come on the main channel, or on one of the others. */
  readonly closeAfterMainBytes?: number;
  readonly closeAfterChannelBytes?: number;
  /** Takes the connections and never reads a byte. */
  readonly neverRead?: boolean;
  /** What it answers a PING with, on the main channel; its PONG if left out. */
  readonly answerPing?: Uint8Array;
  /** What it does when the main channel is whole: says SHUT with a status, or closes without a word. Says nothing if left out. */
  readonly atEnd?: { readonly shut: number } | "close";
};

export type ScriptedDestination = {
  readonly address: { readonly kind: "unix"; readonly path: string };
  /** Bytes of the main channel so far. */
  mainBytes(): number;
  /** Stops reading, or reads on. */
  pauseMain(): void;
  resumeMain(): void;
  /** Resolves when the source has closed the main channel, or lost it. */
  readonly mainEnded: Promise<void>;
  /** Closes every connection. */
  hangUp(): void;
  /** Says SHUT on the main channel. */
  shut(status: number): void;
  close(): Promise<void>;
};

const MAIN_MAGIC = "QEVM";
/** The last byte of the VM description; nothing follows it. */
const DESCRIPTION_END = "}".charCodeAt(0);
/** A PING command up to its value. */
const PING = Buffer.from("0800020004", "hex");
const TAIL = Buffer.from('"devices":[]}');

export async function startScriptedDestination(path: string, script: Script): Promise<ScriptedDestination> {
  const sockets: Socket[] = [];
  let main: Socket | null = null;
  let mainBytes = 0;
  let endMain: () => void = () => {};
  const mainEnded = new Promise<void>((resolve) => {
    endMain = resolve;
  });
  const hangUp = () => {
    for (const socket of sockets) socket.destroy();
  };
  const shut = (status: number) => {
    const message = Buffer.from("0001000400000000", "hex");
    message.writeUInt32BE(status, 4);
    main!.write(message);
  };
  const server: Server = createServer({ allowHalfOpen: true, pauseOnConnect: true }, (socket) => {
    sockets.push(socket);
    socket.on("error", () => {});
    if (sockets.length === script.closeAtConnections) hangUp();
    else if (!script.neverRead) read(socket);
  });
  const read = (socket: Socket) => {
    let bytes = 0;
    let isMain: boolean | null = null;
    socket.on("data", (chunk) => {
      isMain ??= chunk.toString("latin1", 0, 4) === MAIN_MAGIC;
      bytes += chunk.length;
      if (isMain) {
        main = socket;
        mainBytes = bytes;
      }
      const limit = isMain ? script.closeAfterMainBytes : script.closeAfterChannelBytes;
      if (limit !== undefined && bytes >= limit) hangUp();
      const ping = isMain ? chunk.indexOf(PING) : -1;
      if (ping >= 0) socket.write(script.answerPing ?? pongOf(chunk.subarray(ping + PING.length)));
      if (isMain && isEnd(chunk)) finish(socket);
    });
    socket.on("end", () => {
      if (isMain) endMain();
      socket.end();
    });
    socket.on("close", () => {
      if (isMain) endMain();
    });
    socket.resume();
  };
  const finish = (socket: Socket) => {
    if (script.atEnd === "close") hangUp();
    else if (script.atEnd !== undefined && !socket.destroyed) shut(script.atEnd.shut);
  };
  await new Promise<void>((resolve, reject) => {
    server.once("error", reject);
    server.listen(path, resolve);
  });
  return {
    address: { kind: "unix", path },
    mainBytes: () => mainBytes,
    pauseMain: () => main!.pause(),
    resumeMain: () => main!.resume(),
    mainEnded,
    hangUp,
    shut,
    close: async () => {
      hangUp();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}

function pongOf(value: Buffer): Buffer {
  return Buffer.concat([Buffer.from("00020004", "hex"), value.subarray(0, 4)]);
}

function isEnd(chunk: Buffer): boolean {
  return chunk.at(-1) === DESCRIPTION_END && chunk.subarray(-TAIL.length).equals(TAIL);
}
