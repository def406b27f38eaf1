/** Whole device states: small ones, which lie in memory as a whole. */
import { ProtocolError } from "@multifd/protocol";
import type { DeviceName, DeviceStateProvider } from "./guest.js";

/** A device whose state is known already. */
export function provideDeviceState({ idstr, instanceId }: DeviceName, bytes: Uint8Array): DeviceStateProvider {
  return {
    idstr,
    instanceId,
    async *save() {
      yield bytes;
    },
  };
}

/**
 * Reads a state to its end.
 *
 * @throws {ProtocolError} DEVICE_STATE_SIZE, where it has more than `bytesMax` bytes; and what `state` throws.
 */
export async function collectDeviceState(
  { idstr, instanceId }: DeviceName,
  state: AsyncIterable<Uint8Array>,
  bytesMax: number,
): Promise<Uint8Array> {
  const pieces: Uint8Array[] = [];
  let bytes = 0;
  for await (const piece of state) {
    bytes += piece.length;
    if (bytes > bytesMax) {
      throw new ProtocolError(
        "DEVICE_STATE_SIZE",
        `device "${idstr}" instance ${instanceId}: more than ${bytesMax} bytes of state came; does the source have another device under that name?`,
      );
    }
    pieces.push(piece);
  }
  return Buffer.concat(pieces);
}
