/**
 * Hostile streams: recorded main streams, cut and corrupted.
 *
 * Whatever is done to a stream, decoding ends, and ends with a migration error
 * or with a stream that is whole by the protocol's own rules.
 */

import assert from "node:assert/strict";
import fc from "fast-check";
import { MigrationError } from "./errors.js";
import { eventsOf, sourceOf, vector } from "./recorded-vectors.test.js";

/** Bytes before the description, where the structure is. */
const STRUCTURE_BYTES = 13_000;

const peers = ["qemu-7.2", "qemu-11.1"] as const;

async function failureOf(stream: Uint8Array): Promise<unknown> {
  try {
    await eventsOf(sourceOf(stream));
    return null;
  } catch (error) {
    return error;
  }
}

describe("recorded main stream, cut short", () => {
  for (const peer of peers) {
    it(`is a broken link wherever it ends before the device sections (${peer})`, async () => {
      const stream = vector(`${peer}/main.bin.gz`);
      const tail = stream.length - (peer === "qemu-7.2" ? 111512 : 108919);
      // Every byte of the structure, then every seventh: zero pages are nine bytes each, so each of their bytes is met.
      for (let cut = 0; cut <= tail; cut += cut < 400 ? 1 : 7) await assertCut(stream.subarray(0, cut));
    });

    it(`is a broken link inside the device sections and the description (${peer})`, async () => {
      const stream = vector(`${peer}/main.bin.gz`);
      for (let cut = stream.length - 1; cut > 8000; cut -= 997) await assertCut(stream.subarray(0, cut));
    });
  }
});

async function assertCut(stream: Uint8Array): Promise<void> {
  const error = await failureOf(stream);
  assert.ok(error instanceof MigrationError && error.code === "STREAM_CUT", `cut at ${stream.length}: ${error}`);
}

describe("recorded main stream, one byte changed", () => {
  for (const peer of peers)
    it(`is decoded or refused with a migration error (${peer})`, async () => {
      const stream = vector(`${peer}/main.bin.gz`);
      let refused = 0;
      const change = fc.record({
        at: fc.oneof(fc.nat({ max: STRUCTURE_BYTES }), fc.nat({ max: 400 }), fc.nat({ max: stream.length - 1 })),
        by: fc.integer({ min: 1, max: 255 }),
      });
      await fc.assert(
        fc.asyncProperty(change, async ({ at, by }) => {
          const changed = stream.slice();
          changed[at] = changed[at]! ^ by;
          const error = await failureOf(changed);
          if (error === null) return;
          refused += 1;
          if (!(error instanceof MigrationError)) throw error;
        }),
        { numRuns: 250 },
      );
      assert.ok(refused > 0);
    });
});

describe("bytes that are no stream at all", () => {
  it("are refused with a migration error", async () => {
    const any = fc.tuple(fc.constantFrom(8, 19, 273), fc.uint8Array({ minLength: 1, maxLength: 400 }));
    const stream = vector("qemu-11.1/main.bin.gz");
    await fc.assert(
      fc.asyncProperty(any, async ([kept, noise]) => {
        const mixed = new Uint8Array(kept + noise.length);
        mixed.set(stream.subarray(0, kept));
        mixed.set(noise, kept);
        const error = await failureOf(mixed);
        if (!(error instanceof MigrationError)) throw error;
      }),
      { numRuns: 500 },
    );
  });
});
