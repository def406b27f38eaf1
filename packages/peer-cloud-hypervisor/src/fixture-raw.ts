/**
 * Test fixture: a peer that is nothing but bytes, in either role, and the messages that tests make of them.
 *
 * The bytes are written out here once more, by hand, so that no fault of our own encoders can hide behind them.
 */
import { once } from "node:events";
import { rmSync } from "node:fs";
import { connect, createServer, type Server, type Socket } from "node:net";

/** One raw connection: what has come and has not been taken. */
export class RawPeer {
  readonly socket: Socket;
  #come = Buffer.alloc(0);
  #ended = false;
  #wake: () => void = () => {};

  constructor(socket: Socket) {
    this.socket = socket;
    socket.on("data", (chunk: Buffer) => {
      this.#come = Buffer.concat([this.#come, chunk]);
      this.#wake();
    });
    for (const event of ["end", "close", "error"]) {
      socket.on(event, () => {
        this.#ended = true;
        this.#wake();
      });
    }
  }

  static async connect(path: string): Promise<RawPeer> {
    const socket = connect({ path });
    await once(socket, "connect");
    return new RawPeer(socket);
  }

  write(...parts: readonly Uint8Array[]): void {
    if (!this.socket.destroyed) this.socket.write(Buffer.concat(parts));
  }

  /** So many bytes; fewer where the connection ended before. */
  async take(bytes: number): Promise<Buffer> {
    while (this.#come.length < bytes && !this.#ended) {
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
    const taken = this.#come.subarray(0, bytes);
    this.#come = this.#come.subarray(taken.length);
    return taken;
  }

  /** Everything until the other side closes. */
  rest(): Promise<Buffer> {
    return this.take(Number.POSITIVE_INFINITY);
  }

  /** The status of the next response: 1 Ok, 2 Error; null where the connection ended instead. */
  async status(): Promise<number | null> {
    const response = await this.take(16);
    return response.length < 16 ? null : response.readUInt16LE(0);
  }

  end(): void {
    this.socket.end();
  }

  close(): void {
    this.socket.destroy();
  }
}

/** A destination of bare bytes: its connections, in the order of their coming. */
export class RawListener {
  readonly #server: Server;
  readonly #peers: RawPeer[] = [];
  #wake: () => void = () => {};

  private constructor(server: Server) {
    this.#server = server;
    server.on("connection", (socket) => {
      this.#peers.push(new RawPeer(socket));
      this.#wake();
    });
  }

  static async listen(path: string): Promise<RawListener> {
    rmSync(path, { force: true });
    const server = createServer().listen(path);
    const listener = new RawListener(server);
    await once(server, "listening");
    return listener;
  }

  async next(): Promise<RawPeer> {
    while (this.#peers.length === 0) {
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
    return this.#peers.shift()!;
  }

  close(): void {
    this.#server.close();
  }
}

export function request(command: number, length: number | bigint, version = 0): Buffer {
  const bytes = Buffer.alloc(16);
  bytes.writeUInt16LE(command, 0);
  bytes.writeUInt16LE(version, 2);
  bytes.writeBigUInt64LE(BigInt(length), 8);
  return bytes;
}

export const OK = Buffer.from("01000000000000000000000000000000", "hex");
export const ERROR = Buffer.from("02000000000000000000000000000000", "hex");

export function rangeTable(...ranges: readonly (readonly [gpa: number | bigint, length: number | bigint])[]): Buffer {
  const bytes = Buffer.alloc(16 * ranges.length);
  for (const [index, [gpa, length]] of ranges.entries()) {
    bytes.writeBigUInt64LE(BigInt(gpa), 16 * index);
    bytes.writeBigUInt64LE(BigInt(length), 16 * index + 8);
  }
  return bytes;
}

export const START = request(1, 0);
export const COMPLETE = request(5, 0);
export const ABANDON = request(6, 0);

export function config(bytes: Uint8Array): Buffer {
  return Buffer.concat([request(2, bytes.length), bytes]);
}

export function state(bytes: Uint8Array): Buffer {
  return Buffer.concat([request(3, bytes.length), bytes]);
}

/** A Memory command; every range is filled with its own byte. */
export function memory(...ranges: readonly (readonly [gpa: number, length: number, fill: number])[]): Buffer {
  const table = rangeTable(...ranges.map(([gpa, length]) => [gpa, length] as const));
  const contents = ranges.map(([, length, fill]) => Buffer.alloc(length, fill));
  return Buffer.concat([request(4, table.length), table, ...contents]);
}
