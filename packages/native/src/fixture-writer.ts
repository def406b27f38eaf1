/**
 * Test fixture: a process that maps a memory file, registers it for tracking, and writes the pages it is told.
 */
import { openSync } from "node:fs";
import { trackRegister } from "./dirty-tracking.js";
import { mapFile, writeMemory } from "./mapping.js";

const [path = "", length = ""] = process.argv.slice(2);
const mapping = mapFile(openSync(path, "r+"), { lengthBytes: Number(length), writable: true });
trackRegister(mapping);
process.on("message", (offsets: number[]) => {
  for (const offset of offsets) writeMemory(mapping, offset, Uint8Array.of(1));
  process.send?.("written");
});
process.send?.(mapping.address);
