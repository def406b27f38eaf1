/** Copies guest RAM from file to file, holes as holes: what the file at the end lacks must read as zeros already. */
import { read, write } from "node:fs";
import { promisify } from "node:util";
import { seekData } from "@multifd/native";

export type FilePlace = { readonly descriptor: number; readonly offsetBytes: number };

const COPY_BYTES = 2 ** 20;
const readAt = promisify(read);
const writeAt = promisify(write);

/** A file that ends early counts as zeros from there on. */
export async function copyData(from: FilePlace, to: FilePlace, lengthBytes: number): Promise<void> {
  const buffer = Buffer.alloc(Math.min(COPY_BYTES, lengthBytes));
  for (let at = 0; at < lengthBytes; ) {
    const data = seekData(from.descriptor, from.offsetBytes + at);
    if (data === null) return;
    at = Math.max(at, data - from.offsetBytes);
    const due = Math.min(buffer.length, lengthBytes - at);
    if (due <= 0) return;
    const { bytesRead } = await readAt(from.descriptor, buffer, 0, due, from.offsetBytes + at);
    if (bytesRead === 0) return;
    for (let done = 0; done < bytesRead; ) {
      const place = to.offsetBytes + at + done;
      done += (await writeAt(to.descriptor, buffer, done, bytesRead - done, place)).bytesWritten;
    }
    at += bytesRead;
  }
}
