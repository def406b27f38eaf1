import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { Worker } from "node:worker_threads";
import { kernelFunctions } from "./kernel-functions.js";

const header = readFileSync(new URL("include/multifd.h", import.meta.resolve("@multifd/kernel/package.json")), "utf8");

describe("C library", () => {
  it("is declared here as the header declares it, function by function", () => {
    const declared = [...header.matchAll(/^MFD_API int64_t (mfd_\w+)\(([^)]*)\);/gms)].map(([, name, parameters]) => [
      name,
      parameters === "void" ? 0 : parameters!.split(",").length,
    ]);
    const bound = Object.entries(kernelFunctions).map(([name, kinds]) => [name, kinds.length]);
    assert.deepEqual(new Map(bound as [string, number][]), new Map(declared as [string, number][]));
  });

  it("may be used for the first time by many threads at once", async () => {
    const index = import.meta.resolve("./index.js");
    const script = `import { PacketBlock, nativeFeatures, receiveBytes, socketPair, sendBytes, closeDescriptor, createCompressor, freeCodec } from ${JSON.stringify(index)};
      for (let i = 0; i < 200; i++) {
        nativeFeatures();
        const [a, b] = socketPair();
        sendBytes(a, new Uint8Array(8));
        receiveBytes(b, new Uint8Array(8));
        closeDescriptor(a);
        closeDescriptor(b);
        freeCodec(createCompressor("zlib", 1));
      }
      new PacketBlock();`;
    const threads = Array.from({ length: 12 }, () => {
      const thread = new Worker(new URL(`data:text/javascript,${encodeURIComponent(script)}`));
      return new Promise<number>((resolve, reject) => {
        thread.once("error", reject);
        thread.once("exit", resolve);
      });
    });
    assert.deepEqual(await Promise.all(threads), Array(12).fill(0));
  });
});
