/** Devices' states of any length and number, down the channels between two engines in this process; and what goes wrong with them. */
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { join } from "node:path";
import {
  type DeviceStateProvider,
  type MigrationResult,
  provideDeviceState,
  runDestination,
  runSource,
  type SourceJob,
} from "@multifd/engine";
import { QemuDestinationPeer, QemuSourcePeer } from "@multifd/peer-qemu";
import { ChannelError, ProtocolError } from "@multifd/protocol";
import { startRelay } from "../e2e/relaying.js";
import { createScratchDir, removeScratchDir } from "../peers/index.js";
import { ReceivingGuest } from "./receiving-guest.js";
import { ownError } from "./refusal.js";
import { WatchedGuest } from "./watched-guest.js";

const MIB = 2 ** 20;
const RAM_BYTES = 16 * MIB;

type Ended = { readonly result: MigrationResult | null; readonly code: string | null; readonly message: string };

describe("devices' states between two engines", function () {
  this.timeout(60_000);
  let dir: string;
  let guest: WatchedGuest;
  let heir: ReceivingGuest;
  beforeEach(() => {
    dir = createScratchDir();
    heir = new ReceivingGuest();
  });
  afterEach(() => {
    guest.close();
    heir.close();
    removeScratchDir(dir);
  });

  type Way = {
    readonly channels?: number;
    readonly throughRelay?: boolean;
    readonly stopsWhen?: () => Promise<void>;
    readonly job?: Partial<SourceJob>;
  };

  async function migrate(devices: readonly DeviceStateProvider[], way: Way = {}) {
    const { channels = 4, throughRelay = false } = way;
    guest = new WatchedGuest({ bytes: RAM_BYTES, devices, ...(way.stopsWhen && { stopsWhen: way.stopsWhen }) });
    const address = { kind: "unix", path: join(dir, "in") } as const;
    const peer = await QemuDestinationPeer.listen(address, { channels, handshakeTimeoutMs: 10_000 });
    const relay = throughRelay
      ? await startRelay({
          listen: `unix:${join(dir, "relay")}`,
          to: `unix:${address.path}`,
          channels,
          compression: "none",
          toChannels: channels,
          toCompression: "none",
        })
      : null;
    const terms = { compression: "none", onEvent: () => {}, stallTimeoutMs: 20_000 } as const;
    const taken = runDestination({ ...terms, guest: heir, peer });
    const given = runSource({
      ...terms,
      guest,
      peer: new QemuSourcePeer({ address: relay?.address ?? address, channels, connectTimeoutMs: 5000 }),
      level: 1,
      devices: null,
      downtimeLimitMs: 300,
      maxBandwidth: 0,
      roundsMax: 100,
      atRoundLimit: "switchover",
      ...way.job,
    });
    const [source, destination] = await Promise.all([given, taken].map(ended));
    return { source: source!, destination: destination! };
  }

  const assertMoved = ({ source, destination }: { source: Ended; destination: Ended }) => {
    assert.deepEqual([source.message, destination.message], ["", ""]);
    assert.ok(guest.contents().equals(heir.contents()), "its RAM is that of the paused guest");
    assert.deepEqual([guest.calls, guest.isRunning], [["pause"], false]);
  };

  it("moves one gibibyte of one device, and holds a small part of it at any time", async () => {
    const due = createHash("sha256");
    const came = createHash("sha256");
    let cameBytes = 0;
    let outsideBytesMax = 0;
    heir.loader = async (_, state) => {
      for await (const piece of state) {
        came.update(piece);
        cameBytes += piece.length;
        outsideBytesMax = Math.max(outsideBytesMax, process.memoryUsage().arrayBuffers);
      }
    };
    const before = process.memoryUsage().arrayBuffers;
    const device = {
      idstr: "gpu",
      instanceId: 0,
      async *save() {
        for (let at = 0; at < 1024; at++) {
          const piece = Buffer.alloc(MIB, at);
          piece.writeUInt32BE(at, 1000);
          due.update(piece);
          yield piece;
        }
      },
    };
    assertMoved(await migrate([device]));
    assert.equal(cameBytes, 1024 * MIB);
    assert.equal(came.digest("hex"), due.digest("hex"));
    assert.ok(outsideBytesMax - before < 512 * MIB, `${outsideBytesMax - before} bytes were held in buffers`);
  });

  it("moves thousands of small devices, one without a byte among them", async () => {
    const devices = Array.from({ length: 3000 }, (_, instanceId) =>
      provideDeviceState({ idstr: `port/${instanceId % 7}`, instanceId }, Buffer.alloc(instanceId % 500, instanceId)),
    );
    assertMoved(await migrate(devices));
    assert.equal(heir.states.length, 3000);
    for (const { idstr, instanceId, bytes } of heir.states) {
      assert.equal(idstr, `port/${instanceId % 7}`);
      assert.ok(Buffer.from(bytes).equals(Buffer.alloc(instanceId % 500, instanceId)));
    }
  });

  for (const throughRelay of [false, true]) {
    it(`keeps several large devices apart${throughRelay ? ", through a relay" : ""}`, async () => {
      const devices = Array.from({ length: 5 }, (_, instanceId) => ({
        idstr: "disk",
        instanceId,
        async *save() {
          for (let at = 0; at < 6; at++) yield Buffer.alloc(1_000_003, `${instanceId}/${at} `);
        },
      }));
      assertMoved(await migrate(devices, { throughRelay }));
      for (const { instanceId, bytes } of heir.states) {
        const pieces = Array.from({ length: 6 }, (_, at) => Buffer.alloc(1_000_003, `${instanceId}/${at} `));
        assert.ok(Buffer.concat(pieces).equals(bytes), `device ${instanceId}`);
      }
      assert.equal(heir.states.length, 5);
    });
  }

  it("takes what a device has while the guest runs, and pauses it when that is over", async () => {
    const seen: string[] = [];
    const device = {
      idstr: "disk",
      instanceId: 0,
      async *saveRunning() {
        for (let at = 0; at < 20; at++) {
          seen.push(guest.isRunning ? "running" : "paused");
          yield Buffer.alloc(MIB, `early ${at} `);
          await new Promise((resolve) => setTimeout(resolve, 5));
        }
      },
      async *save() {
        seen.push(guest.isRunning ? "running" : "paused");
        yield Buffer.from("the rest");
      },
    };
    assertMoved(await migrate([device, provideDeviceState({ idstr: "other", instanceId: 0 }, Buffer.from("o"))]));
    assert.deepEqual(seen, [...Array.from({ length: 20 }, () => "running"), "paused"]);
    const early = Array.from({ length: 20 }, (_, at) => Buffer.alloc(MIB, `early ${at} `));
    const disk = heir.states.find(({ idstr }) => idstr === "disk")!;
    assert.ok(Buffer.concat([...early, Buffer.from("the rest")]).equals(disk.bytes));
  });

  describe("of a guest that stops some time after it was told to", () => {
    let stop: () => void;
    let stopsWhen: () => Promise<void>;
    beforeEach(() => {
      const told = new Promise<void>((resolve) => {
        stop = resolve;
      });
      stopsWhen = () => told;
    });
    const device = {
      idstr: "disk",
      instanceId: 0,
      sendsAtOnce: true,
      async *save() {
        yield Buffer.from("early ");
        await stopsWhen();
        yield Buffer.from("and late");
      },
    };

    it("are loaded as they come, rounds going on until it stops", async () => {
      let came = "";
      let ranAtFirst = false;
      heir.loader = async (_, state) => {
        for await (const piece of state) {
          if (came === "") ranAtFirst = guest.isRunning;
          came += Buffer.from(piece).toString();
          stop();
        }
      };
      assertMoved(await migrate([device], { stopsWhen }));
      assert.deepEqual([came, ranAtFirst], ["early and late", true]);
    });

    it("are given up when they cannot be loaded, and it goes on", async () => {
      heir.loader = async (_, state) => {
        for await (const piece of state) {
          stop();
          throw new ProtocolError("DEVICE_STATE_ODD", `${piece.length} bytes that nobody can load`);
        }
      };
      const { source, destination } = await migrate([device], { stopsWhen });
      assert.equal(destination.code, "DEVICE_STATE_ODD");
      assert.notEqual(source.code, null);
      // Whether it has been paused by then depends on who is faster.
      assert.deepEqual([guest.calls.filter((call) => call === "resume"), guest.isRunning], [["resume"], true]);
    });
  });

  it("sends what saving a device has written into the guest's RAM", async () => {
    const device = {
      idstr: "disk",
      instanceId: 0,
      savesIntoRam: true,
      async *save() {
        yield Buffer.from("before");
        for (let i = 0; i < 100; i++) guest.write();
        yield Buffer.from("behind");
      },
    };
    assertMoved(await migrate([device]));
    assert.equal(Buffer.from(heir.states[0]!.bytes).toString(), "beforebehind");
  });

  it("asks a device for no more than a slow loader has read", async () => {
    let given = 0;
    let read = 0;
    let aheadMax = 0;
    heir.loader = async (_, state) => {
      for await (const piece of state) {
        read += piece.length;
        await new Promise((resolve) => setTimeout(resolve, 2));
      }
    };
    const device = {
      idstr: "disk",
      instanceId: 0,
      async *save() {
        for (let at = 0; at < 160; at++) {
          given += MIB;
          aheadMax = Math.max(aheadMax, given - read);
          yield Buffer.alloc(MIB);
        }
      },
    };
    assertMoved(await migrate([device]));
    assert.equal(read, 160 * MIB);
    assert.ok(aheadMax < 64 * MIB, `${aheadMax} bytes were on their way`);
  });

  it("is content with a loader that needs no more than the beginning", async () => {
    heir.loader = async (_, state) => {
      for await (const piece of state) if (piece.length > 0) return;
    };
    const device = {
      idstr: "disk",
      instanceId: 0,
      async *save() {
        for (let at = 0; at < 80; at++) yield Buffer.alloc(MIB);
      },
    };
    assertMoved(await migrate([device]));
  });

  /** Goes on until it is given up, and tells whether it was. */
  function endless(phase: "running" | "paused") {
    let isOver = false;
    async function* bytes() {
      try {
        for (;;) yield Buffer.alloc(MIB);
      } finally {
        isOver = true;
      }
    }
    async function* none() {}
    const device = {
      idstr: "disk",
      instanceId: 0,
      saveRunning: phase === "running" ? bytes : none,
      save: phase === "paused" ? bytes : none,
    };
    return { device, isOver: () => isOver };
  }

  for (const phase of ["running", "paused"] as const) {
    it(`fails with a loader's reason in the middle of a state, the guest ${phase}, which goes on at the source`, async () => {
      heir.loader = async (_, state) => {
        let bytes = 0;
        for await (const piece of state) {
          bytes += piece.length;
          if (bytes > 20 * MIB) throw new ProtocolError("ANOTHER_MODEL", "this device is another model");
        }
      };
      const { device, isOver } = endless(phase);
      const { source, destination } = await migrate([device]);
      assert.deepEqual([source.code, destination.code], ["PEER_REFUSED", "ANOTHER_MODEL"]);
      assert.deepEqual([guest.calls, guest.isRunning], [phase === "running" ? [] : ["pause", "resume"], true]);
      assert.equal(heir.calls.at(-1), "abandon");
      assert.ok(isOver(), "nobody goes on saving");
    });
  }

  it("fails with a provider's reason, and its guest goes on", async () => {
    const device = {
      idstr: "disk",
      instanceId: 0,
      async *save() {
        yield Buffer.alloc(3 * MIB);
        throw new ChannelError("BACK_END_GONE", "the process behind the device is gone");
      },
    };
    const { source, destination } = await migrate([device]);
    assert.equal(source.code, "BACK_END_GONE");
    assert.notEqual(destination.code, null);
    assert.deepEqual([guest.calls, guest.isRunning], [["pause", "resume"], true]);
  });

  it("ends a loader's stream when the source goes away, and gives all back", async () => {
    let seen: unknown = null;
    const cancel = new AbortController();
    heir.loader = async (_, state) => {
      try {
        for await (const piece of state) if (piece.length > 0) cancel.abort();
      } catch (error) {
        seen = error;
        throw error;
      }
    };
    const { device } = endless("paused");
    const { source, destination } = await migrate([device], { job: { signal: cancel.signal } });
    assert.equal(source.code, "CANCELLED");
    assert.equal((seen as ChannelError).code, destination.code);
    assert.deepEqual([guest.calls, guest.isRunning], [["pause", "resume"], true]);
  });

  it("does not wait for a device that hangs, when the migration has failed", async () => {
    const cancel = new AbortController();
    const device = {
      idstr: "disk",
      instanceId: 0,
      async *save() {
        cancel.abort();
        await new Promise(() => {});
        yield Buffer.alloc(1);
      },
    };
    const { source } = await migrate([device], { job: { signal: cancel.signal } });
    assert.equal(source.code, "CANCELLED");
    assert.deepEqual([guest.calls, guest.isRunning], [["pause", "resume"], true]);
  });

  for (const [what, names] of [
    ["without a name", [["", 0]]],
    ["with a name that does not fit", [["ü".repeat(128), 0]]],
    [
      "of one name and instance",
      [
        ["disk", 1],
        ["disk", 1],
      ],
    ],
    ["of an instance beyond 32 bits", [["disk", 2 ** 32]]],
  ] as const) {
    it(`refuses devices ${what} before anything moves`, async () => {
      const devices = names.map(([idstr, instanceId]) => provideDeviceState({ idstr, instanceId }, Buffer.alloc(1)));
      guest = new WatchedGuest({ bytes: RAM_BYTES, devices });
      const address = { kind: "unix", path: join(dir, "nobody") } as const;
      const job: SourceJob = {
        guest,
        peer: new QemuSourcePeer({ address, channels: 1, connectTimeoutMs: 1000 }),
        onEvent: () => {},
        compression: "none",
        level: 1,
        devices: null,
        downtimeLimitMs: 300,
        maxBandwidth: 0,
        roundsMax: 20,
        atRoundLimit: "switchover",
        stallTimeoutMs: 1000,
      };
      await assert.rejects(runSource(job), { code: "DEVICE_NAME" });
      assert.deepEqual([guest.calls, guest.isRunning], [[], true]);
    });
  }
});

function ended(migration: Promise<MigrationResult>): Promise<Ended> {
  return migration.then(
    (result) => ({ result, code: null, message: "" }),
    (error: unknown) => ({ result: null, code: ownError(error).code, message: ownError(error).message }),
  );
}
