/**
 * What the C library was built with and what this CPU adds; and a thread's own CPU time.
 */
import { call } from "./library.js";
import { checked } from "./native-result.js";

export type NativeFeatures = {
  readonly zlib: boolean;
  readonly isal: boolean;
  readonly zstd: boolean;
  readonly lz4: boolean;
  readonly avx2: boolean;
  readonly avx512: boolean;
};

export function nativeFeatures(): NativeFeatures {
  const bits = checked(call("mfd_features"), "asking for features");
  const has = (bit: number) => (bits & (1 << bit)) !== 0;
  return { zlib: has(0), isal: has(1), zstd: has(2), lz4: has(3), avx2: has(8), avx512: has(9) };
}

const scanLevels = { scalar: 0, avx2: 1, best: 2 } as const;

/** Limits the zero scan of the whole process; for tests and benches. */
export function limitScan(level: "scalar" | "avx2" | "best"): void {
  checked(call("mfd_scan_limit", scanLevels[level]), "limiting the zero scan");
}

/** CPU time of the calling thread in milliseconds, which Node tells only for the process. */
export function threadCpuMs(): number {
  return checked(call("mfd_thread_cpu_us"), "reading the thread's CPU time") / 1000;
}
