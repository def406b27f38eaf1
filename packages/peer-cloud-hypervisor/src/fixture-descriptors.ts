/**
 * Test fixture: a peer of raw bytes that can pass descriptors, and a count of those that are open.
 *
 * Answers are read with the thread blocked once they have come, and messages are written with it blocked: nothing
 * longer than a socket's buffer goes here.
 */
import { fstatSync, readdirSync, readlinkSync, statSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { Channel, Listener } from "@multifd/channel";
import {
  pollReadable,
  receiveBytes,
  receiveDescriptors,
  sendBytes,
  sendDescriptors,
  setSocketTimeout,
  shutdownSending,
} from "@multifd/native";
import type { MemoryFile } from "./fixture.js";
import { request } from "./fixture-raw.js";

/** For whatever is sure to come, on a machine however busy. */
const PATIENCE_MS = 30_000;

export class DescriptorPeer {
  readonly #channel: Channel;

  constructor(channel: Channel) {
    this.#channel = channel;
    setSocketTimeout(channel.descriptor, PATIENCE_MS);
  }

  /** The first connection to an address. */
  static async accept(path: string): Promise<DescriptorPeer> {
    const listener = await Listener.listen({ kind: "unix", path }, 1);
    try {
      await pollReadable([listener.descriptor], PATIENCE_MS);
      return new DescriptorPeer(listener.accept()!);
    } finally {
      listener.close();
    }
  }

  static async connect(path: string): Promise<DescriptorPeer> {
    return new DescriptorPeer(await Channel.connect({ kind: "unix", path }, PATIENCE_MS));
  }

  write(...parts: readonly Uint8Array[]): void {
    sendBytes(this.#channel.descriptor, Buffer.concat(parts));
  }

  /** A MemoryFd; without descriptors its payload comes as plain bytes. */
  sendSlot(slot: Uint8Array, descriptors: readonly number[]): void {
    this.write(request(7, slot.length));
    this.sendPayload(slot, descriptors);
  }

  sendPayload(slot: Uint8Array, descriptors: readonly number[]): void {
    sendDescriptors(this.#channel.descriptor, slot, descriptors);
  }

  /** The next answer's status; null where the connection ended instead. */
  async status(): Promise<number | null> {
    const response = await this.take(16);
    return response.length < 16 ? null : response.readUInt16LE(0);
  }

  /** So many bytes; fewer where the connection ended before. */
  async take(bytes: number): Promise<Buffer> {
    // The destination's coordinator runs on this very thread: it must not be blocked before the answer is there.
    await pollReadable([this.#channel.descriptor], PATIENCE_MS);
    const out = Buffer.alloc(bytes);
    return out.subarray(0, receiveBytes(this.#channel.descriptor, out));
  }

  /** One message, and the descriptors that ride on it; they are the caller's to close. */
  async takeDescriptors(bytes: number): Promise<{ readonly wire: Buffer; readonly descriptors: readonly number[] }> {
    await pollReadable([this.#channel.descriptor], PATIENCE_MS);
    const out = Buffer.alloc(bytes);
    const message = receiveDescriptors(this.#channel.descriptor, out, 8);
    return { wire: out.subarray(0, message.bytes), descriptors: message.descriptors };
  }

  /** Nothing more will be sent; answers may still come. */
  end(): void {
    shutdownSending(this.#channel.descriptor);
  }

  close(): void {
    this.#channel.close();
  }
}

export function slot32(slot: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(slot);
  return bytes;
}

/** How many descriptors of this process lead to one of these files. */
export function descriptorsOf(files: readonly MemoryFile[]): number {
  const inodes = new Set(files.map(({ descriptor }) => fstatSync(descriptor).ino));
  return openDescriptors().filter((path) => {
    try {
      return inodes.has(statSync(path).ino);
    } catch {
      return false; // closed since it was listed
    }
  }).length;
}

/** How many sockets this process has open. Only those are counted, for other threads open and close files as they like. */
export function openSockets(): number {
  return openDescriptors().filter((path) => {
    try {
      return readlinkSync(path).startsWith("socket:");
    } catch {
      return false;
    }
  }).length;
}

/** Waits for those that are closed in the background, though not for ever. @returns how many are open then. */
export async function openSocketsUpTo(due: number): Promise<number> {
  for (let turn = 0; turn < 100 && openSockets() > due; turn++) await sleep(50);
  return openSockets();
}

function openDescriptors(): string[] {
  return readdirSync("/proc/self/fd").map((fd) => `/proc/self/fd/${fd}`);
}
