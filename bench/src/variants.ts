/**
 * Variants: who migrates to whom. To measure another pair, add a line.
 */
import type { DestinationProgram, Method, SourceProgram } from "./endpoint.js";
import { multifdDestination, multifdSource } from "./multifd-endpoint.js";
import { qemuDestination, qemuSource } from "./qemu-endpoint.js";
import { rawDestination, rawSource } from "./raw-endpoint.js";

export type Variant = {
  readonly name: string;
  readonly source: SourceProgram;
  readonly destination: DestinationProgram;
  readonly methods: readonly Method[];
};

const everyMethod: readonly Method[] = ["none", "zlib", "zstd"];
/** A loop without a codec is no ceiling for a method with one. */
const uncompressed: readonly Method[] = ["none"];

/** What the others are compared with: QEMU on its own, and the least that has to be done. */
export const QEMU_ALONE = "QEMU 11.1 → QEMU 11.1";
export const CEILING = "raw ceiling, pwrite";
/** What the performance contract is about. */
export const OURS = "multifd → multifd";

export const variants: readonly Variant[] = [
  { name: QEMU_ALONE, source: qemuSource("11.1"), destination: qemuDestination("11.1"), methods: everyMethod },
  { name: "QEMU 11.1 → multifd", source: qemuSource("11.1"), destination: multifdDestination, methods: everyMethod },
  { name: OURS, source: multifdSource, destination: multifdDestination, methods: everyMethod },
  {
    name: "raw ceiling, recv",
    source: rawSource("mapping"),
    destination: rawDestination("mapping"),
    methods: uncompressed,
  },
  { name: CEILING, source: rawSource("mapping"), destination: rawDestination("file"), methods: uncompressed },
  {
    name: "raw ceiling, pread, UFFDIO_COPY",
    source: rawSource("file"),
    destination: rawDestination("fresh"),
    methods: uncompressed,
  },
];
