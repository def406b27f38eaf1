/** Device sections of what a QEMU saved into a file: the bytes as they came. */
import { readFileSync } from "node:fs";
import { ChunkSource, decodeMainStream, parseVmDescription, walkDeviceSections } from "@multifd/protocol";

export type RecordedSection = { readonly name: string; readonly version: number; readonly bytes: Uint8Array };

/** The device sections of a recorded stream: name, version and data. */
export async function deviceSections(path: string): Promise<readonly RecordedSection[]> {
  const stream = new Uint8Array(readFileSync(path));
  for await (const event of decodeMainStream(new ChunkSource(chunk(stream)))) {
    if (event.kind !== "devices") continue;
    const walked = walkDeviceSections(event.bytes, parseVmDescription(event.description)).sections;
    return walked.map(({ name, version, at, lengthBytes }) => {
      const dataAt = at + 14 + name.length; // type, id, length and name, instance, version
      return { name, version, bytes: event.bytes.subarray(dataAt, at + lengthBytes - 5) };
    });
  }
  throw new Error(`${path} holds no device sections`);
}

async function* chunk(bytes: Uint8Array): AsyncGenerator<Uint8Array> {
  yield bytes;
}
