/**
 * The C library, opened: the one file that knows ffi-rs.
 *
 * ffi-rs keeps one table of libraries per process, so opening it again, in a
 * worker thread, is harmless. Buffers are passed by address, without a copy; a
 * call on a new thread runs on libuv's pool (four threads), and whoever makes
 * it keeps the buffers reachable until it answers.
 *
 * A call costs 2 to 4 µs, and about 1 µs more per parameter: hence few, fat
 * calls on the hot path.
 */
import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { ConfigError } from "@multifd/protocol";
import { DataType, load, open } from "ffi-rs";

const library = "multifd";
const path = fileURLToPath(new URL("build/libmultifd.so", import.meta.resolve("@multifd/kernel/package.json")));
if (!existsSync(path)) {
  throw new ConfigError(
    "KERNEL_LIBRARY_MISSING",
    `the C library ${path} has not been built; type "npm run build" in the multifd checkout`,
  );
}
open({ library, path });

/** One parameter: its C type and its value. */
export type Parameter = readonly [DataType, number | string | Uint8Array];

export const int32 = (value: number): Parameter => [DataType.I32, value];
/** Sizes, offsets and addresses: exact below 2^53, which an int32 is not. */
export const size = (value: number): Parameter => [DataType.Double, value];
export const text = (value: string): Parameter => [DataType.String, value];
export const buffer = (value: Uint8Array): Parameter => [DataType.U8Array, value];

function request(funcName: string, parameters: readonly Parameter[]) {
  return {
    library,
    funcName,
    retType: DataType.I64 as const,
    paramsType: parameters.map(([type]) => type),
    paramsValue: parameters.map(([, value]) => value),
  };
}

/** Calls a function of `multifd.h` and returns its raw result, which `native-result.ts` interprets. */
export function call(name: string, ...parameters: Parameter[]): number {
  return load(request(name, parameters));
}

/** The same on a thread of libuv's pool, for calls that wait. */
export function callInNewThread(name: string, ...parameters: Parameter[]): Promise<number> {
  return load({ ...request(name, parameters), runInNewThread: true });
}

/** A function whose only parameter is one fixed buffer, with everything but the call done beforehand. */
export function bindBuffer(name: string, bytes: Uint8Array): () => number {
  const prepared = request(name, [buffer(bytes)]);
  return () => load(prepared);
}
