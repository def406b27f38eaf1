/**
 * Recorder: takes a migration in as bytes, without understanding them.
 *
 * It is a destination that QEMU believes: it sorts connections into main and
 * channels by their first four bytes, answers the PING, sees where the main stream
 * ends (its last word is a JSON object whose length stands before it, and then the
 * source falls silent) and says SHUT with success. What came in on each connection
 * is kept whole, to be decoded by tests or replayed, spoilt, at a destination.
 *
 * Deliberately none of our own protocol code: a recording that it helped to
 * make would prove nothing about it. Record small VMs: everything is held in memory.
 */
import { createServer, type Server, type Socket } from "node:net";

/** The bytes of one migration, connection by connection; `channels` by the number in each one's init message. */
export type Recording = { readonly main: Uint8Array; readonly channels: readonly Uint8Array[] };

/** A recorder that listens: point a source at `address`, then await `recording`. */
export type Recorder = {
  /** Where it listens, with the port that `tcp:HOST:0` got. */
  readonly address: string;
  /** Rejects if the source leaves early, or when the time is over. */
  readonly recording: Promise<Recording>;
  /** Ends it before its time, as `afterEach` may. */
  close(): void;
};

const MAIN_MAGIC = "QEVM";
const MULTIFD_MAGIC = 0x11223344;
const INIT_ID_AT = 24;
const OPEN_RETURN_PATH_AND_PING = Buffer.from("0800010000" + "0800020004", "hex");
const PONG = Buffer.from("00020004", "hex");
const SHUT_SUCCESS = Buffer.from("0001000400000000", "hex");
/** End of stream, then the type of the VM description that follows. */
const END_AND_VM_DESCRIPTION = Buffer.from("0006", "hex");
const RECORDING_TIMEOUT_MS = 30_000;

type Connection = { readonly socket: Socket; readonly chunks: Buffer[]; ended: boolean };

/**
 * Listens and records one migration.
 *
 * @param listen    `unix:PATH` or `tcp:HOST:PORT`.
 * @param channels  multifd channels that the source opens beside its main channel.
 */
export async function startRecorder(
  listen: string,
  channels: number,
  timeoutMs = RECORDING_TIMEOUT_MS,
): Promise<Recorder> {
  const server = createServer();
  const connections: Connection[] = [];
  let finish: (result: Recording | Error) => void = () => {};
  const recording = new Promise<Recording>((resolve, reject) => {
    finish = (result) => (result instanceof Error ? reject(result) : resolve(result));
  });
  recording.catch(() => {}); // reported to whoever awaits it, even if that is later
  const end = (result: Recording | Error) => {
    clearTimeout(timer);
    server.close();
    for (const { socket } of connections) socket.destroy();
    finish(result);
  };
  server.on("connection", (socket) => {
    const connection: Connection = { socket, chunks: [], ended: false };
    connections.push(connection);
    const answered = { pong: false, shut: false };
    socket.on("data", (chunk) => {
      connection.chunks.push(chunk);
      if (startsMain(connection)) answerMain(connection, answered);
    });
    socket.on("error", () => {}); // `close` follows, and what came until then decides
    socket.on("close", () => {
      connection.ended = true;
      const all = connections.length > channels || connections.some(startsMain);
      if (all && connections.every(({ ended }) => ended)) end(assembleRecording(connections, channels));
    });
  });
  await listenOn(server, listen);
  const timer = setTimeout(() => {
    end(new Error(`recorder on ${listen}: no whole migration within ${timeoutMs} ms; ${describe(connections)}`));
  }, timeoutMs);
  return {
    address: boundAddress(server, listen),
    recording,
    close: () => end(new Error(`recorder on ${listen}: closed`)),
  };
}

/** Records one migration; for a source that dials an address it was given beforehand. */
export async function recordMigration(listen: string, channels: number, timeoutMs?: number): Promise<Recording> {
  const recorder = await startRecorder(listen, channels, timeoutMs);
  return recorder.recording;
}

function startsMain({ chunks }: Connection): boolean {
  return chunks[0]?.toString("latin1", 0, 4) === MAIN_MAGIC;
}

/** Says what a destination with return path says: PONG to the PING, SHUT once the stream is whole. */
function answerMain({ socket, chunks }: Connection, answered: { pong: boolean; shut: boolean }): void {
  const main = Buffer.concat(chunks);
  chunks.splice(0, chunks.length, main);
  const ping = main.indexOf(OPEN_RETURN_PATH_AND_PING);
  if (ping < 0) return;
  const value = ping + OPEN_RETURN_PATH_AND_PING.length;
  if (!answered.pong && main.length >= value + 4) {
    answered.pong = true;
    socket.write(Buffer.concat([PONG, main.subarray(value, value + 4)]));
  }
  if (!answered.shut && isWholeMain(main)) {
    answered.shut = true;
    socket.write(SHUT_SUCCESS);
  }
}

/** Whether the bytes end with a VM description: `00 06`, a length that reaches exactly to the end, and JSON. */
function isWholeMain(main: Buffer): boolean {
  if (main.at(-1) !== "}".charCodeAt(0)) return false;
  for (let at = main.indexOf(END_AND_VM_DESCRIPTION); at >= 0; at = main.indexOf(END_AND_VM_DESCRIPTION, at + 1)) {
    const json = at + END_AND_VM_DESCRIPTION.length + 4;
    if (json < main.length && main.readUInt32BE(json - 4) === main.length - json)
      return isJson(main.toString("utf8", json));
  }
  return false;
}

function isJson(text: string): boolean {
  try {
    JSON.parse(text);
    return true;
  } catch {
    return false;
  }
}

function assembleRecording(connections: readonly Connection[], channels: number): Recording | Error {
  let main: Buffer | null = null;
  const byNumber = new Map<number, Buffer>();
  for (const { chunks } of connections) {
    const bytes = Buffer.concat(chunks);
    if (bytes.toString("latin1", 0, 4) === MAIN_MAGIC) main = bytes;
    else if (bytes.length > INIT_ID_AT && bytes.readUInt32BE(0) === MULTIFD_MAGIC)
      byNumber.set(bytes[INIT_ID_AT]!, bytes);
  }
  const numbered = Array.from({ length: channels }, (_, id) => byNumber.get(id));
  if (!main || !isWholeMain(main) || !numbered.every((bytes) => bytes !== undefined)) {
    return new Error(`recorder: the source left before its migration was whole; ${describe(connections)}`);
  }
  return { main, channels: numbered };
}

function describe(connections: readonly Connection[]): string {
  const each = connections.map(({ chunks, ended }) => {
    const bytes = Buffer.concat(chunks);
    return `${bytes.subarray(0, 4).toString("hex") || "silent"} ${bytes.length} bytes${ended ? ", closed" : ""}`;
  });
  return `connections: ${each.join("; ") || "none"}`;
}

function listenOn(server: Server, address: string): Promise<void> {
  const { path, host, port } = parseAddress(address);
  return new Promise((resolve, reject) => {
    server.once("error", reject);
    if (path === undefined) server.listen(port, host, resolve);
    else server.listen(path, resolve);
  });
}

function boundAddress(server: Server, listen: string): string {
  const bound = server.address();
  if (bound === null || typeof bound === "string") return listen;
  return `${listen.slice(0, listen.lastIndexOf(":"))}:${bound.port}`;
}

/** Takes `unix:PATH` or `tcp:HOST:PORT` apart, into what node:net wants. */
export function parseAddress(address: string): { path?: string; host?: string; port?: number } {
  const unix = /^unix:(.+)$/.exec(address);
  if (unix) return { path: unix[1]! };
  const tcp = /^tcp:(.*):(\d+)$/.exec(address);
  if (!tcp) throw new Error(`"${address}" is neither unix:PATH nor tcp:HOST:PORT`);
  return { host: tcp[1]!.replace(/^\[(.*)\]$/, "$1") || "localhost", port: Number(tcp[2]) };
}
