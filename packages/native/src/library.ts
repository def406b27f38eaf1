/**
 * The C library, opened: the one file that knows koffi.
 *
 * Every thread opens it for itself, and binds a function when it first calls it.
 * A call costs some 0.1 µs (`node bench/dist/native-call.js`), whatever it takes:
 * buffers go by address, without a copy. A call on a new thread runs on libuv's pool
 * (four threads), and whoever makes it keeps the buffers reachable until it answers.
 */
import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { ConfigError } from "@multifd/protocol";
import { type LibraryHandle, load } from "koffi";
import { type KernelFunction, kernelFunctions, type ParameterKind, type ValuesOf } from "./kernel-functions.js";

type Value = number | string | Uint8Array;

type Bound = {
  (...values: readonly Value[]): number;
  /** The last one is called back: `(error, result)`. */
  readonly async: (...values: readonly unknown[]) => void;
};

const typeOf: Record<ParameterKind, string> = {
  int32: "int32_t",
  size: "double",
  text: "str",
  buffer: "void *",
};

const library = open();
const functions = new Map<KernelFunction, Bound>();

function open(): LibraryHandle {
  const path = fileURLToPath(new URL("build/libmultifd.so", import.meta.resolve("@multifd/kernel/package.json")));
  if (existsSync(path)) return load(path);
  throw new ConfigError(
    "KERNEL_LIBRARY_MISSING",
    `the C library ${path} has not been built; type "npm run build" in the multifd checkout`,
  );
}

function find(name: KernelFunction): Bound {
  const found = functions.get(name);
  if (found) return found;
  const types = kernelFunctions[name].map((kind) => typeOf[kind]);
  const bound: Bound = library.func(name, "int64_t", types);
  functions.set(name, bound);
  return bound;
}

/** Calls a function of `multifd.h` and returns its raw result, which `native-result.ts` interprets. */
export function call<Name extends KernelFunction>(name: Name, ...values: ValuesOf<Name>): number {
  return find(name)(...values);
}

/** The same on a thread of libuv's pool, for calls that wait. */
export function callInNewThread<Name extends KernelFunction>(name: Name, ...values: ValuesOf<Name>): Promise<number> {
  return new Promise((resolve, reject) => {
    const answer = (error: Error | null, result: number) => (error === null ? resolve(result) : reject(error));
    find(name).async(...values, answer);
  });
}
