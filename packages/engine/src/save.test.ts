import assert from "node:assert/strict";
import { closeSync, openSync, readSync, writeSync } from "node:fs";
import { type DirtyBitmap, type DirtyTracker, describeRamBlock, type RamBlock } from "@multifd/memory";
import { closeDescriptor, createMemfd } from "@multifd/native";
import { SystemError } from "@multifd/protocol";
import type { MigrationEvent } from "./events.js";
import type { DestinationGuest, DevicePart, RamPlacement, SourceGuest } from "./guest.js";
import { runSave, type SaveJob } from "./save.js";

const PAGE = 4096;
const PAGES = 1000;
const block = describeRamBlock("ram", PAGES * PAGE, PAGE)!;
const DEVICES: DevicePart = {
  machineType: "none",
  ramSectionId: 1,
  configuration: new Uint8Array(0),
  sections: Uint8Array.of(1, 2, 3),
};

/** Every third page is zeros. */
const image = () => {
  const bytes = Buffer.alloc(PAGES * PAGE);
  for (let page = 0; page < PAGES; page++)
    if (page % 3 !== 0) bytes.fill((page % 255) + 1, page * PAGE, (page + 1) * PAGE);
  return bytes;
};

describe("saving a guest in this process", () => {
  let calls: string[];
  let from: number;
  let to: number;
  beforeEach(() => {
    calls = [];
    from = createMemfd("test:from", PAGES * PAGE);
    to = createMemfd("test:to", PAGES * PAGE);
    writeSync(from, image());
  });
  afterEach(() => {
    closeDescriptor(from);
    closeDescriptor(to);
  });

  const content = (descriptor: number) => {
    const bytes = Buffer.alloc(PAGES * PAGE);
    readSync(descriptor, bytes, 0, bytes.length, 0);
    return bytes;
  };
  const source = (tracker: DirtyTracker | null = null): SourceGuest => ({
    ram: [{ block, descriptor: from, offsetBytes: 0 }],
    tracker,
    pause: async () => void calls.push("pause"),
    resume: async () => void calls.push("resume"),
    devices: [],
  });
  const destination = (more: Partial<DestinationGuest> & { readonly descriptor?: number } = {}): DestinationGuest => ({
    placeRam: async (blocks: readonly RamBlock[]): Promise<readonly RamPlacement[]> => {
      calls.push(`place ${blocks.map(({ name }) => name)}`);
      return [
        { block, descriptor: more.descriptor ?? to, through: "file", startsZeroed: more.descriptor === undefined },
      ];
    },
    loadDeviceState: async () => {},
    roundIn: async () => void calls.push("round in"),
    loadDevices: async ({ sections }) => void calls.push(`devices ${sections}`),
    commit: async () => void calls.push("commit"),
    abandon: async () => void calls.push("abandon"),
    ...more,
  });
  const save = (into: DestinationGuest, more: Partial<SaveJob> = {}) =>
    runSave({
      guest: source(),
      into,
      name: "the file",
      threads: 2,
      devices: DEVICES,
      onEvent: () => {},
      onRead: async () => void calls.push("read"),
      maxBandwidth: 0,
      downtimeLimitMs: 0,
      roundsMax: 3,
      atRoundLimit: "switchover",
      stallTimeoutMs: 0,
      ...more,
    });

  it("brings every page, leaves zero pages alone, and commits at the end", async () => {
    const events: MigrationEvent[] = [];
    const result = await save(destination(), { onEvent: (event) => events.push(event) });
    assert.deepEqual(events[0], { event: "connected", peer: "the file", channels: 2 });
    assert.ok(content(to).equals(image()));
    assert.deepEqual([result.normalPages, result.zeroPages, result.rounds], [666, 334, 1]);
    assert.equal(result.wireBytes, 666 * PAGE);
    assert.deepEqual(calls, ["place ram", "round in", "devices 1,2,3", "read", "commit"]);
  });

  it("brings what a running guest writes meanwhile, and pages that it clears", async () => {
    let harvests = 0;
    const tracker: DirtyTracker = {
      name: "test",
      start: async () => {},
      harvest: (_, dirty: DirtyBitmap) => {
        if (++harvests !== 1) return;
        writeSync(from, Buffer.alloc(PAGE, 0xee), 0, PAGE, 0);
        writeSync(from, Buffer.alloc(PAGE), 0, PAGE, PAGE);
        dirty.set(0);
        dirty.set(1);
      },
      stop: async () => {},
    };
    await save(destination(), { guest: source(tracker) });
    const due = image();
    due.fill(0xee, 0, PAGE).fill(0, PAGE, 2 * PAGE);
    assert.ok(content(to).equals(due));
    assert.deepEqual([calls.includes("pause"), calls.at(-1)], [true, "commit"]);
  });

  it("abandons what cannot be placed, or cannot be kept, and a guest that was paused goes on", async () => {
    const quiet: DirtyTracker = { name: "test", start: async () => {}, harvest: () => {}, stop: async () => {} };
    const trouble = async () => {
      throw new SystemError("SYSTEM_ENOSPC", "no room");
    };
    for (const [into, paused] of [
      [destination({ placeRam: trouble }), false],
      [destination({ loadDevices: trouble }), true],
      [destination({ commit: trouble }), true],
    ] as const) {
      calls = [];
      await assert.rejects(save(into, { guest: source(quiet) }), { code: "SYSTEM_ENOSPC" });
      assert.equal(calls.at(-1), "abandon");
      assert.equal(calls.includes("resume"), paused);
    }
  });

  it("abandons a file that a thread cannot write, and says why", async () => {
    const descriptor = openSync("/dev/full", "w");
    try {
      await assert.rejects(save(destination({ descriptor })), { code: "SYSTEM_ENOSPC" });
    } finally {
      closeSync(descriptor);
    }
    assert.equal(calls.at(-1), "abandon");
  });

  it("undoes a commit that was cancelled under way, once it has ended", async () => {
    const abort = new AbortController();
    let end = () => {};
    const ended = new Promise<void>((resolve) => {
      end = resolve;
    });
    const into = destination({
      commit: async () => {
        abort.abort();
        calls.push("commit");
        setImmediate(end);
        await ended;
        calls.push("committed");
        throw new SystemError("SYSTEM_EIO", "the disk has gone");
      },
    });
    await assert.rejects(save(into, { signal: abort.signal }), { code: "CANCELLED" });
    assert.deepEqual(
      calls.slice(calls.indexOf("commit")).filter((call) => call !== "resume"),
      ["commit", "committed", "abandon"],
    );
  });

  it("refuses a guest whose devices have a state beside RAM", async () => {
    const device = { idstr: "fs", instanceId: 0, save: async function* () {} };
    await assert.rejects(save(destination(), { guest: { ...source(), devices: [device] } }), {
      code: "DEVICE_STATE_UNEXPECTED",
    });
    assert.deepEqual(calls, []);
  });
});
