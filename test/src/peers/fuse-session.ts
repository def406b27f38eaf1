/**
 * FUSE session: a guest's file system requests to virtiofsd, down a virtqueue.
 *
 * Just enough of FUSE 7.31 to have a session worth migrating: INIT, LOOKUP, OPEN,
 * READ. Node ids and file handles are the back-end's, and must mean the same to whoever takes its state over.
 * Source: linux/fuse.h.
 */
import type { DriverQueue, GuestMemory } from "./virtio-guest.js";

const OP = { lookup: 1, open: 14, read: 15, init: 26 } as const;
const REQUEST_HEAD_BYTES = 40;
const ANSWER_HEAD_BYTES = 16;
const ANSWER_BYTES_MAX = 8192;
export const FUSE_ROOT = 1;

export class FuseSession {
  readonly #memory: GuestMemory;
  readonly #queue: DriverQueue;
  readonly #at: number;
  /** Of the next request. */
  unique = 1n;

  /** @param at  Guest address of four pages for requests and answers. */
  constructor(memory: GuestMemory, queue: DriverQueue, at: number) {
    this.#memory = memory;
    this.#queue = queue;
    this.#at = at;
  }

  /** The same session on another host: its memory and its ring have moved. */
  moveTo(memory: GuestMemory, queue: DriverQueue): FuseSession {
    const moved = new FuseSession(memory, queue, this.#at);
    moved.unique = this.unique;
    return moved;
  }

  async init(): Promise<void> {
    const body = Buffer.alloc(16);
    body.writeUInt32LE(7, 0);
    body.writeUInt32LE(31, 4);
    body.writeUInt32LE(65_536, 8);
    await this.#request(OP.init, 0, body);
  }

  /** @returns the node id. */
  async lookup(parent: number, name: string): Promise<number> {
    return Number((await this.#request(OP.lookup, parent, Buffer.from(`${name}\0`))).readBigUInt64LE(0));
  }

  /** @returns the file handle. */
  async open(node: number): Promise<bigint> {
    return (await this.#request(OP.open, node, Buffer.alloc(8))).readBigUInt64LE(0);
  }

  async read(node: number, handle: bigint, bytes: number): Promise<string> {
    const body = Buffer.alloc(40);
    body.writeBigUInt64LE(handle, 0);
    body.writeUInt32LE(bytes, 16);
    return (await this.#request(OP.read, node, body)).toString();
  }

  /** @throws {Error} with the errno that the file system answers. */
  async #request(opcode: number, node: number, body: Buffer): Promise<Buffer> {
    const head = Buffer.alloc(REQUEST_HEAD_BYTES);
    head.writeUInt32LE(REQUEST_HEAD_BYTES + body.length, 0);
    head.writeUInt32LE(opcode, 4);
    head.writeBigUInt64LE(this.unique++, 8);
    head.writeBigUInt64LE(BigInt(node), 16);
    this.#memory.write(this.#at, Buffer.concat([head, body]));
    const answerAt = this.#at + 8192;
    this.#queue.submit({
      out: [[this.#at, REQUEST_HEAD_BYTES + body.length]],
      in: [[answerAt, ANSWER_BYTES_MAX]],
    });
    await this.#queue.answer();
    const answer = this.#memory.read(answerAt, ANSWER_BYTES_MAX);
    const error = answer.readInt32LE(4);
    if (error !== 0) throw new Error(`FUSE request ${opcode} of node ${node} fails with errno ${-error}`);
    return answer.subarray(ANSWER_HEAD_BYTES, answer.readUInt32LE(0));
  }
}
