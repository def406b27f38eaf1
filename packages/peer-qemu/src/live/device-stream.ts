/**
 * Device stream: a QEMU's own migration stream with its shared RAM left out.
 *
 * All of a guest but the RAM that we move: firmware and video memory page by page, then the
 * devices. It travels verbatim, in device states of a packet's size, numbered from 0. At both
 * ends it is read once, so that neither a QEMU that does not share what we think it shares,
 * nor a source that means harm, gets a page past us into RAM that is shared.
 */
import type { DeviceState } from "@multifd/engine";
import {
  type ByteSource,
  CAPABILITY_IGNORE_SHARED,
  ChunkSource,
  decodeMainStream,
  type MainEvent,
  PACKET_GUEST_BYTES,
  ProtocolError,
} from "@multifd/protocol";

/** The name of its device states. */
export const DEVICE_STREAM = "multifd/qemu-devices";
/** Video memory, firmware and devices of a large machine stay below it by far. */
export const DEVICE_STREAM_BYTES_MAX = 2 ** 30;

export type StreamTerms = {
  readonly machineType: string;
  /** Blocks of which no page may come, with their lengths. */
  readonly shared: ReadonlyMap<string, number>;
};

/**
 * Reads a stream to its end.
 *
 * @param onPing  Called for each PING.
 * @throws {ProtocolError} MACHINE_TYPE_MISMATCH, CAPABILITY, RAM_BLOCK_UNKNOWN, RAM_SIZE_MISMATCH, RAM_BLOCK_SHARED, and what is
 *   wrong with the stream itself.
 */
export async function readDeviceStream(
  source: ByteSource,
  terms: StreamTerms,
  onPing: (value: number) => Promise<void>,
): Promise<void> {
  for await (const event of decodeMainStream(source, { deviceBytesMax: DEVICE_STREAM_BYTES_MAX })) {
    switch (event.kind) {
      case "configuration":
        checkConfiguration(event, terms);
        break;
      case "ram-blocks":
        checkBlocks(event, terms);
        break;
      case "command":
        if (event.name === "ping") await onPing(event.value);
        break;
      case "page":
      case "zero-pages":
        if (terms.shared.has(event.block)) throw sharedPage(event.block);
        break;
      case "flush":
      case "section-end":
      case "devices":
        break;
    }
  }
}

function checkConfiguration(
  { machineType, capabilities }: Extract<MainEvent, { kind: "configuration" }>,
  terms: StreamTerms,
): void {
  if (machineType !== terms.machineType) {
    throw new ProtocolError(
      "MACHINE_TYPE_MISMATCH",
      `the device stream is that of a "${machineType}", the machine is a "${terms.machineType}"`,
    );
  }
  if (capabilities.includes(CAPABILITY_IGNORE_SHARED)) return;
  throw new ProtocolError("CAPABILITY", "the device stream has all of RAM in it: x-ignore-shared is off at its source");
}

function checkBlocks({ blocks }: Extract<MainEvent, { kind: "ram-blocks" }>, { shared }: StreamTerms): void {
  for (const [name, lengthBytes] of shared) {
    const block = blocks.find((other) => other.name === name);
    if (block === undefined) {
      throw new ProtocolError("RAM_BLOCK_UNKNOWN", `the device stream does not list the shared RAM block "${name}"`);
    }
    if (block.lengthBytes === lengthBytes) continue;
    throw new ProtocolError(
      "RAM_SIZE_MISMATCH",
      `RAM block "${name}" has ${block.lengthBytes} bytes in the device stream, its file ${lengthBytes}`,
    );
  }
}

function sharedPage(block: string): ProtocolError {
  return new ProtocolError(
    "RAM_BLOCK_SHARED",
    `a page of RAM block "${block}" came with the devices: QEMU does not take it for shared RAM in a named file (memory-backend-file with share=on)`,
  );
}

/** Cuts a stream into device states. */
export function splitDeviceStream(bytes: Uint8Array): readonly DeviceState[] {
  const states: DeviceState[] = [];
  for (let at = 0; at < bytes.length; at += PACKET_GUEST_BYTES) {
    const part = bytes.subarray(at, at + PACKET_GUEST_BYTES);
    states.push({ idstr: DEVICE_STREAM, instanceId: states.length, bytes: part });
  }
  return states;
}

/** Puts a stream together from states that come in any order. */
export class DeviceStreamParts {
  readonly #parts = new Map<number, Uint8Array>();
  #bytes = 0;

  /** @throws {ProtocolError} DEVICE_STREAM. */
  add({ instanceId, bytes }: DeviceState): void {
    this.#bytes += bytes.length;
    if (this.#parts.has(instanceId)) throw broken(`part ${instanceId} came twice`);
    if (this.#bytes > DEVICE_STREAM_BYTES_MAX) throw broken(`more than ${DEVICE_STREAM_BYTES_MAX} bytes came`);
    this.#parts.set(instanceId, Uint8Array.from(bytes));
  }

  /** @throws {ProtocolError} DEVICE_STREAM, where a part is missing; what `readDeviceStream` refuses. */
  async join(terms: StreamTerms): Promise<Uint8Array> {
    const parts = Array.from({ length: this.#parts.size }, (_, index) => {
      const part = this.#parts.get(index);
      if (part === undefined) throw broken(`part ${index} of ${this.#parts.size} did not come`);
      return part;
    });
    const whole = Buffer.concat(parts);
    const source = new ChunkSource(oneChunk(whole));
    await readDeviceStream(source, terms, async () => {});
    if (source.position === whole.length) return whole;
    throw broken(`${whole.length - source.position} bytes follow its end`);
  }
}

async function* oneChunk(bytes: Uint8Array): AsyncGenerator<Uint8Array> {
  yield bytes;
}

function broken(why: string): ProtocolError {
  return new ProtocolError("DEVICE_STREAM", `the device stream is not whole: ${why}; the source is broken or hostile`);
}
