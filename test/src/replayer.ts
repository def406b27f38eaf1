/**
 * Replayer: a source that repeats a recording, whole or spoilt.
 *
 * A destination must survive whatever a broken peer sends; this one sends real
 * bytes up to a fault that the test chose: a connection cut at any byte, bytes
 * changed, a channel never opened, connections that stay silent, a stream that
 * stops and holds. It dials main first, as QEMU does, and then the channels, and
 * writes all of them at once: nothing it does depends on what the destination says.
 *
 * Without a fault it ends as a source does: with return path once SHUT has come,
 * without it as soon as its last byte is in the kernel.
 */
import { connect, type Socket } from "node:net";
import { parseAddress, type Recording } from "./recorder.js";

/** Bytes to put in place of the recorded ones. */
export type Patch = { readonly stream: "main" | number; readonly at: number; readonly bytes: Uint8Array };

export type Faults = {
  /** Sends that many bytes of main, then ends it. */
  readonly cutMainAt?: number;
  /** Sends that many bytes of one channel, then closes it. */
  readonly cutChannelAt?: { readonly channel: number; readonly bytes: number };
  readonly patch?: readonly Patch[];
  /** Channels that are never opened. */
  readonly omitChannels?: readonly number[];
  /** Connections opened first of all that never say a word. */
  readonly silentConnections?: number;
  /** Closes nothing when all is sent: only the destination, or `signal`, ends it. A cut is then where it stops sending. */
  readonly holdOpen?: boolean;
  /** Lets go of every connection. */
  readonly signal?: AbortSignal;
};

/** What the destination said on main until the end. */
export type ReplayResult = {
  readonly answers: Uint8Array;
  /** SHUT's status, if the destination said SHUT; 0 is success. */
  readonly shut: number | null;
};

const SHUT = 1;
const REPLAY_TIMEOUT_MS = 30_000;

/**
 * Sends a recording to a destination and resolves when its last connection is closed, from whichever side.
 *
 * @param address  `unix:PATH` or `tcp:HOST:PORT`.
 * @throws {Error} if nobody listens for main, or if it has not ended in time. A destination that hangs up is no error here.
 */
export async function replayMigration(
  address: string,
  recording: Recording,
  faults: Faults = {},
  timeoutMs = REPLAY_TIMEOUT_MS,
): Promise<ReplayResult> {
  const sockets: Socket[] = [];
  const dial = async () => {
    const socket = await connectTo(address);
    sockets.push(socket);
    return socket;
  };
  const release = () => {
    for (const socket of sockets) socket.destroy();
  };
  let late = false;
  const timer = setTimeout(() => {
    late = true;
    release();
  }, timeoutMs);
  faults.signal?.addEventListener("abort", release, { once: true });
  try {
    for (let i = 0; i < (faults.silentConnections ?? 0); i++) await dial();
    const main = await dial();
    const answers = collectAnswers(main);
    const channels: { readonly socket: Socket; readonly bytes: Uint8Array; readonly cut: boolean }[] = [];
    for (const [channel, bytes] of recording.channels.entries()) {
      if (faults.omitChannels?.includes(channel)) continue;
      const cut = faults.cutChannelAt?.channel === channel ? faults.cutChannelAt.bytes : undefined;
      const spoilt = spoil(bytes, channel, cut, faults.patch);
      const socket = await dial().catch(unlessGone);
      if (socket === null) break;
      channels.push({ socket, bytes: spoilt, cut: cut !== undefined });
    }
    const mainBytes = spoil(recording.main, "main", faults.cutMainAt, faults.patch);
    const sent = channels.map(async ({ socket, bytes, cut }) => {
      await send(socket, bytes);
      if (cut && !faults.holdOpen) socket.destroy();
    });
    // At once: a destination that waits for main does not read the channels. And only our direction, for a
    // destination that meets a broken one when it answers would not read on up to the cut.
    const mainSent = send(main, mainBytes).then(() => {
      if (faults.cutMainAt !== undefined && !faults.holdOpen) main.end();
    });
    await Promise.all([...sent, mainSent]);
    if (!faults.holdOpen) {
      if (faults.cutMainAt !== undefined) await closed(main);
      else if (hasReturnPath(recording.main)) await answers.shutOrClosed;
      for (const socket of sockets) if (!socket.destroyed) socket.destroySoon();
    }
    await Promise.all(sockets.map(closed));
    if (late) throw new Error(`replay to ${address}: not ended within ${timeoutMs} ms; the destination holds on`);
    return answers.result();
  } finally {
    clearTimeout(timer);
    faults.signal?.removeEventListener("abort", release);
    release();
  }
}

/** A destination that has given up listens no more. */
function unlessGone(error: NodeJS.ErrnoException): null {
  if (["ECONNRESET", "ECONNREFUSED", "ENOENT"].includes(error.code ?? "")) return null;
  throw error;
}

function spoil(bytes: Uint8Array, stream: Patch["stream"], cut: number | undefined, patches: readonly Patch[] = []) {
  const spoilt = Uint8Array.from(bytes);
  for (const patch of patches) {
    if (patch.stream !== stream) continue;
    if (patch.at + patch.bytes.length > bytes.length) {
      throw new RangeError(`patch at ${patch.at}: ${stream} has ${bytes.length} bytes recorded`);
    }
    spoilt.set(patch.bytes, patch.at);
  }
  if (cut !== undefined && cut > bytes.length)
    throw new RangeError(`cut at ${cut}: ${stream} has ${bytes.length} bytes`);
  return spoilt.subarray(0, cut);
}

/** Whether the source opened a return path, and so waits for SHUT before it goes. */
function hasReturnPath(main: Uint8Array): boolean {
  return Buffer.from(main.buffer, main.byteOffset, main.byteLength).includes(
    Buffer.from("0800010000" + "0800020004", "hex"),
  );
}

function connectTo(address: string): Promise<Socket> {
  const { path, host, port } = parseAddress(address);
  return new Promise((resolve, reject) => {
    const socket = path === undefined ? connect(port!, host) : connect(path);
    socket.once("error", reject);
    socket.once("connect", () => {
      socket.off("error", reject);
      socket.on("error", () => {}); // a destination may hang up on us: `close` follows, and that ends it
      socket.resume(); // else the destination's end of file is never seen
      resolve(socket);
    });
  });
}

/** Resolves when the kernel has the bytes, or the connection is gone. */
function send(socket: Socket, bytes: Uint8Array): Promise<void> {
  return new Promise((resolve) => {
    socket.once("close", () => resolve());
    socket.write(bytes, () => resolve());
  });
}

function closed(socket: Socket): Promise<void> {
  return new Promise((resolve) => {
    if (socket.closed) resolve();
    else socket.once("close", () => resolve());
  });
}

/** Keeps what a destination says on main: messages of be16 type, be16 length, body. */
function collectAnswers(main: Socket) {
  const chunks: Buffer[] = [];
  const findShut = () => {
    const bytes = Buffer.concat(chunks);
    for (let at = 0; at + 4 <= bytes.length; at += 4 + bytes.readUInt16BE(at + 2)) {
      if (bytes.readUInt16BE(at) === SHUT && at + 8 <= bytes.length) return bytes.readUInt32BE(at + 4);
    }
    return null;
  };
  const shutOrClosed = new Promise<void>((resolve) => {
    main.on("data", (chunk) => {
      chunks.push(chunk);
      if (findShut() !== null) resolve();
    });
    main.once("close", () => resolve());
  });
  return { shutOrClosed, result: (): ReplayResult => ({ answers: Buffer.concat(chunks), shut: findShut() }) };
}
