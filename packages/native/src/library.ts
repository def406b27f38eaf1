/**
 * The C library, opened: the one file that knows ffi-rs.
 *
 * ffi-rs keeps one table of libraries and their functions per process, looks
 * into it without a lock, and adds a function when it is called for the first time: two
 * threads that do so at once corrupt the heap. So the first thread opens the
 * library and calls every function once, with arguments that each refuses;
 * threads that it starts find the table complete, and only read it. A program may
 * import this package in any thread, but not in two unrelated ones at the same instant.
 *
 * Buffers are passed by address, without a copy; a call on a new thread runs on
 * libuv's pool (four threads), and whoever makes it keeps the buffers reachable
 * until it answers. A call costs 2 to 4 µs, of which a buffer costs two, and several
 * times that where guest RAM has just swept the caches: hence few, fat calls on
 * the hot path, which name their buffer by its address.
 * Source: ffi-rs 1.3.7, src/lib.rs, get_symbol().
 */
import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { getEnvironmentData, setEnvironmentData } from "node:worker_threads";
import { ConfigError } from "@multifd/protocol";
import { DataType, load, open } from "ffi-rs";
import { type KernelFunction, kernelFunctions, type ParameterKind, type ValuesOf } from "./kernel-functions.js";

type Value = number | string | Uint8Array;

const library = "multifd";
/** Inherited by threads from the one that started them. */
const OPENED = "multifd.library.opened";

const typeOf: Record<ParameterKind, DataType> = {
  int32: DataType.I32,
  size: DataType.Double,
  text: DataType.String,
  buffer: DataType.U8Array,
};

function request(name: KernelFunction, types: readonly DataType[], values: readonly Value[]) {
  return {
    library,
    funcName: name,
    retType: DataType.I64 as const,
    paramsType: [...types],
    paramsValue: [...values],
  };
}

function typesOf(name: KernelFunction): DataType[] {
  return kernelFunctions[name].map((kind) => typeOf[kind]);
}

function openOnce(): void {
  const path = fileURLToPath(new URL("build/libmultifd.so", import.meta.resolve("@multifd/kernel/package.json")));
  if (getEnvironmentData(OPENED) === path) return;
  if (!existsSync(path)) {
    throw new ConfigError(
      "KERNEL_LIBRARY_MISSING",
      `the C library ${path} has not been built; type "npm run build" in the multifd checkout`,
    );
  }
  open({ library, path });
  for (const name of Object.keys(kernelFunctions) as KernelFunction[]) callInVain(name);
  setEnvironmentData(OPENED, path);
}

/** Puts a function into ffi-rs's table. No descriptor, no length and no address: each function refuses that, or only tells. */
function callInVain(name: KernelFunction): void {
  const kinds: readonly ParameterKind[] = kernelFunctions[name];
  const types = kinds.map((kind) => (kind === "buffer" ? DataType.I64 : typeOf[kind]));
  const values = kinds.map((kind) => (kind === "buffer" ? 0 : kind === "text" ? "" : -1));
  load(request(name, types, values));
}

openOnce();

/** Calls a function of `multifd.h` and returns its raw result, which `native-result.ts` interprets. */
export function call<Name extends KernelFunction>(name: Name, ...values: ValuesOf<Name>): number {
  return load(request(name, typesOf(name), values as readonly Value[]));
}

/** The same on a thread of libuv's pool, for calls that wait. */
export function callInNewThread<Name extends KernelFunction>(name: Name, ...values: ValuesOf<Name>): Promise<number> {
  return load({ ...request(name, typesOf(name), values as readonly Value[]), runInNewThread: true });
}

/**
 * A function with everything but the call done beforehand, for arguments that stay the same.
 *
 * Buffers are turned into their addresses once: whoever calls keeps them reachable as long as the function.
 */
export function bind<Name extends KernelFunction>(name: Name, ...values: ValuesOf<Name>): () => number {
  const given: readonly Value[] = values;
  const types = kernelFunctions[name].map((kind) => (kind === "buffer" ? DataType.I64 : typeOf[kind]));
  const fixed = given.map((value) => (value instanceof Uint8Array ? call("mfd_address", value) : value));
  const prepared = request(name, types, fixed);
  return () => load(prepared);
}
