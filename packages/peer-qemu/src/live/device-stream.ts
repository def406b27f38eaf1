/**
 * Device stream: a QEMU's own migration stream with its shared RAM left out.
 *
 * All of a guest but the RAM that we move: firmware and video memory page by page, then the
 * devices. It travels verbatim, as one device's state. At both
 * ends it is read once, so that neither a QEMU that does not share what we think it shares,
 * nor a source that means harm, gets a page past us into RAM that is shared.
 */
import {
  type ByteSource,
  CAPABILITY_IGNORE_SHARED,
  decodeMainStream,
  type MainEvent,
  ProtocolError,
} from "@multifd/protocol";

/** Its name as a device's state. */
export const DEVICE_STREAM = { idstr: "multifd/qemu-devices", instanceId: 0 } as const;
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
 * @param onRamEnd  Called when only devices follow, before any byte of them is asked for.
 * @throws {ProtocolError} MACHINE_TYPE_MISMATCH, CAPABILITY, RAM_BLOCK_UNKNOWN, RAM_SIZE_MISMATCH, RAM_BLOCK_SHARED, and what is
 *   wrong with the stream itself.
 */
export async function readDeviceStream(
  source: ByteSource,
  terms: StreamTerms,
  onPing: (value: number) => Promise<void>,
  onRamEnd: () => void = () => {},
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
      case "section-end":
        if (event.phase === "complete") onRamEnd();
        break;
      case "flush":
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

/** Bytes that are here already, for whoever reads a stream. */
export async function* oneChunk(bytes: Uint8Array): AsyncGenerator<Uint8Array> {
  yield bytes;
}
