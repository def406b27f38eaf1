/**
 * State service: the back-end's end of a device-state transfer.
 *
 * The front-end hands over its end of a pipe and waits for nobody; the bytes go on
 * the side, and the verdict is asked for when it has seen the end. So a transfer
 * runs beside the messages, and its outcome waits here for CHECK_DEVICE_STATE.
 *
 * Owns the descriptor handed in. One transfer at a time.
 */
import { Socket } from "node:net";
import { closeDescriptor } from "@multifd/native";
import type { BackEndDevice } from "./back-end-device.js";
import { stateDirection } from "./messages.js";

/** What CHECK_DEVICE_STATE answers. */
const GOOD = 0n;
const BAD = 1n;
/** A front-end that neither reads nor writes for so long is given up. */
const STALL_MS = 10_000;
const STATE_BYTES_MAX = 2 ** 30;

export class StateService {
  readonly #device: BackEndDevice;
  #outcome: Promise<bigint> | null = null;
  #stream: Socket | null = null;
  /** Why the last transfer failed, for whoever logs it. */
  lastFailure: Error | null = null;

  constructor(device: BackEndDevice) {
    this.#device = device;
  }

  get isOffered(): boolean {
    return this.#device.saveState !== undefined && this.#device.loadState !== undefined;
  }

  /**
   * Begins a transfer.
   *
   * @param descriptor  Closed here in any case.
   * @returns whether it has begun.
   */
  begin(direction: number, descriptor: number): boolean {
    const isSave = direction === stateDirection.save;
    if (this.#stream !== null || (!isSave && direction !== stateDirection.load)) {
      closeDescriptor(descriptor);
      return false;
    }
    let stream: Socket;
    try {
      stream = new Socket({ fd: descriptor, readable: !isSave, writable: isSave });
    } catch {
      closeDescriptor(descriptor); // neither pipe nor socket
      return false;
    }
    stream.on("error", () => {}); // the transfer below meets it too
    stream.setTimeout(STALL_MS, () => stream.destroy(new Error(`nothing moved within ${STALL_MS} ms`)));
    this.#stream = stream;
    this.#outcome = this.#run(isSave, stream);
    return true;
  }

  /** The verdict on the last transfer; bad where there was none. Waits for its end, which a time-out bounds. */
  async check(): Promise<bigint> {
    const outcome = (await this.#outcome) ?? BAD;
    this.#outcome = null;
    return outcome;
  }

  /** Ends a transfer under way. */
  async close(): Promise<void> {
    this.#stream?.destroy(new Error("the front-end is gone"));
    await this.#outcome;
  }

  async #run(isSave: boolean, stream: Socket): Promise<bigint> {
    try {
      await (isSave ? this.#give(stream) : this.#take(stream));
      return GOOD;
    } catch (error) {
      this.lastFailure = error as Error;
      return BAD;
    } finally {
      stream.destroy();
      this.#stream = null;
    }
  }

  async #give(stream: Socket): Promise<void> {
    for await (const chunk of this.#device.saveState!()) {
      await new Promise<void>((resolve, reject) => stream.write(chunk, (error) => (error ? reject(error) : resolve())));
    }
    await new Promise<void>((resolve, reject) => {
      stream.once("error", reject);
      stream.end(resolve);
    });
  }

  async #take(stream: Socket): Promise<void> {
    const chunks: Uint8Array[] = [];
    let bytes = 0;
    for await (const chunk of stream as AsyncIterable<Buffer>) {
      bytes += chunk.length;
      if (bytes > STATE_BYTES_MAX) throw new Error(`more than ${STATE_BYTES_MAX} bytes of state came`);
      chunks.push(chunk);
    }
    await this.#device.loadState!(Buffer.concat(chunks));
  }
}
