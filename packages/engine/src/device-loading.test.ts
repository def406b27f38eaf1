import assert from "node:assert/strict";
import { encodeChunkHead } from "@multifd/protocol";
import fc from "fast-check";
import { DeviceLoading } from "./device-loading.js";
import type { DeviceName } from "./guest.js";

const MIB = 2 ** 20;

type Loader = (device: DeviceName, state: AsyncIterable<Uint8Array>) => Promise<void>;

/** A loading whose admissions and failures are noted. */
function loadingWith(load: Loader) {
  const admitted: number[] = [];
  const failures: { code?: string; message: string }[] = [];
  let wake = () => {};
  const loading = new DeviceLoading({
    load,
    admit: (channel) => admitted.push(channel),
    fail: (error) => failures.push(error as Error),
    onChange: () => wake(),
  });
  const arrive = (channel: number, index: number, isLast: boolean, data: Uint8Array, instanceId = 0) =>
    loading.arrive({
      channel,
      idstr: "device",
      instanceId,
      bytes: Uint8Array.from(Buffer.concat([encodeChunkHead(index, isLast), data])),
    });
  /** Resolves when every device is loaded. */
  const loaded = async () => {
    while (loading.loading !== null || loading.incomplete !== null) {
      await new Promise<void>((resolve) => {
        wake = resolve;
      });
    }
  };
  return { loading, admitted, failures, arrive, loaded };
}

/** Reads everything into `read`, by instance. */
function reader(read: Map<number, Buffer>): Loader {
  return async ({ instanceId }, state) => {
    read.set(instanceId, Buffer.alloc(0));
    for await (const piece of state) read.set(instanceId, Buffer.concat([read.get(instanceId)!, piece]));
  };
}

/** Reads nothing before `open` is called. */
function gate(): { readonly opened: Promise<void>; readonly open: () => void } {
  let open = () => {};
  const opened = new Promise<void>((resolve) => {
    open = resolve;
  });
  return { opened, open };
}

describe("loading devices' states", () => {
  it("feeds every device its bytes in order, in whatever order its chunks come", async () => {
    const order = fc
      .tuple(fc.integer({ min: 1, max: 12 }), fc.integer({ min: 1, max: 4 }))
      .chain(([chunks, devices]) => {
        const all = Array.from({ length: chunks * devices }, (_, at) => [at % devices, Math.floor(at / devices)]);
        return fc.tuple(fc.constant(chunks), fc.shuffledSubarray(all, { minLength: all.length }));
      });
    await fc.assert(
      fc.asyncProperty(order, async ([chunks, arrivals]) => {
        const read = new Map<number, Buffer>();
        const { arrive, loaded, failures, admitted, loading } = loadingWith(reader(read));
        for (const [instanceId, index] of arrivals as [number, number][]) {
          arrive(instanceId, index, index === chunks - 1, Buffer.from(`${instanceId}:${index} `), instanceId);
        }
        await loaded();
        const due = (instanceId: number) =>
          Array.from({ length: chunks }, (_, index) => `${instanceId}:${index} `).join("");
        for (const [instanceId, bytes] of read) assert.equal(bytes.toString(), due(instanceId));
        assert.deepEqual([failures, admitted.length, loading.heldBytes], [[], arrivals.length, 0]);
      }),
    );
  });

  it("loads a device that has no bytes", async () => {
    const read = new Map<number, Buffer>();
    const { arrive, loaded } = loadingWith(reader(read));
    arrive(0, 0, true, Buffer.alloc(0));
    await loaded();
    assert.deepEqual([...read], [[0, Buffer.alloc(0)]]);
  });

  it("admits no more than it may hold while a loader does not read, and goes on when it does", async () => {
    const { opened, open } = gate();
    const read = new Map<number, Buffer>();
    const { arrive, admitted, loading, loaded } = loadingWith(async (device, state) => {
      await opened;
      await reader(read)(device, state);
    });
    for (let index = 0; index < 64; index++) arrive(index, index, index === 63, Buffer.alloc(MIB, index));
    assert.ok(admitted.length < 40 && loading.heldBytes <= 33 * MIB, `${admitted.length} were admitted`);
    open();
    await loaded();
    assert.deepEqual([admitted.length, loading.heldBytes, read.get(0)!.length], [64, 0, 64 * MIB]);
  });

  it("lets the chunk in that a device waits for when early ones have taken all room", async () => {
    const read = new Map<number, Buffer>();
    const { arrive, admitted, loaded } = loadingWith(reader(read));
    for (let index = 63; index > 0; index--) arrive(index, index, index === 63, Buffer.alloc(MIB, index));
    assert.ok(admitted.length < 40);
    arrive(0, 0, false, Buffer.alloc(MIB));
    await loaded();
    assert.equal(admitted.length, 64);
    for (let index = 0; index < 64; index++) assert.equal(read.get(0)![index * MIB], index);
  });

  it("drops what a loader leaves unread, and holds nobody up for it", async () => {
    const { arrive, admitted, loaded, loading, failures } = loadingWith(async (_, state) => {
      for await (const piece of state) if (piece.length > 0) return;
    });
    for (let index = 0; index < 80; index++) {
      arrive(index, index, index === 79, Buffer.alloc(MIB));
      await Promise.resolve();
    }
    await loaded();
    assert.deepEqual([admitted.length, loading.heldBytes, failures], [80, 0, []]);
  });

  it("knows whose state is not whole", async () => {
    const { arrive, loading } = loadingWith(reader(new Map()));
    assert.equal(loading.incomplete, null);
    arrive(0, 1, true, Buffer.alloc(1), 9);
    assert.deepEqual(loading.incomplete, { idstr: "device", instanceId: 9 });
    arrive(0, 0, false, Buffer.alloc(1), 9);
    assert.equal(loading.incomplete, null);
  });

  it("fails with a loader's own error", async () => {
    const refusal = new Error("another model");
    const { arrive, failures } = loadingWith(() => Promise.reject(refusal));
    arrive(0, 0, true, Buffer.alloc(1));
    await Promise.resolve();
    assert.deepEqual(failures, [refusal]);
  });

  it("ends a loader's stream with what stopped it", async () => {
    const stopped = new Error("the link broke");
    const seen: unknown[] = [];
    const { arrive, loading } = loadingWith(async (_, state) => {
      try {
        for await (const piece of state) assert.ok(piece);
      } catch (error) {
        seen.push(error);
      }
    });
    arrive(0, 0, false, Buffer.alloc(1));
    await new Promise((resolve) => setImmediate(resolve));
    loading.stop(stopped);
    await new Promise((resolve) => setImmediate(resolve));
    assert.deepEqual(seen, [stopped]);
  });

  const breaches: readonly (readonly [what: string, chunks: readonly (readonly [number, boolean])[]])[] = [
    [
      "a chunk that came before and is read",
      [
        [0, false],
        [0, false],
      ],
    ],
    [
      "a chunk that came before and waits",
      [
        [2, false],
        [2, false],
      ],
    ],
    [
      "a chunk behind the last",
      [
        [1, true],
        [2, false],
      ],
    ],
    [
      "a second last",
      [
        [1, true],
        [0, true],
      ],
    ],
    [
      "a last that is not",
      [
        [3, false],
        [1, true],
      ],
    ],
  ];
  for (const [what, chunks] of breaches) {
    it(`refuses ${what}, naming channel and device`, () => {
      const { arrive, failures } = loadingWith(reader(new Map()));
      for (const [index, isLast] of chunks) arrive(3, index, isLast, Buffer.alloc(1));
      assert.equal(failures.length, 1);
      assert.equal(failures[0]!.code, "DEVICE_STATE_ORDER");
      assert.match(failures[0]!.message, /^channel 3, device "device" instance 0: chunk /);
    });
  }

  it("refuses more devices than anybody has", () => {
    const { arrive, failures } = loadingWith(reader(new Map()));
    for (let instanceId = 0; instanceId <= 65_536; instanceId++) arrive(0, 0, true, Buffer.alloc(0), instanceId);
    assert.deepEqual(
      failures.map(({ code }) => code),
      ["DEVICE_STATE_COUNT"],
    );
  });
});
