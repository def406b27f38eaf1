/** Destinations that refuse, die, hang or are not there: the source says so, and its guest goes on running. */
import assert from "node:assert/strict";
import { readdirSync } from "node:fs";
import { join } from "node:path";
import { formatAddress } from "@multifd/channel";
import { type DevicePart, type MigrationEvent, runSource, type SourceJob } from "@multifd/engine";
import { QemuSourcePeer } from "@multifd/peer-qemu";
import { type MigrationError, parseUuid } from "@multifd/protocol";
import { type ReceiverOptions, startReceiver } from "../e2e/receiver.js";
import { createScratchDir, removeScratchDir } from "../peers/index.js";
import { ownError } from "./refusal.js";
import { type Script, type ScriptedDestination, startScriptedDestination } from "./scripted-destination.js";
import { WatchedGuest, type WatchedGuestOptions } from "./watched-guest.js";

const BYTES = 16 * 2 ** 20;
const OTHER_UUID = parseUuid("11111111-2222-3333-4444-555555555555");
/** The list of RAM blocks and what stands before it. */
const SETUP_BYTES = 60;

describe("a source whose destination fails", function () {
  this.timeout(20_000);
  let dir: string;
  let guest: WatchedGuest;
  let destination: ScriptedDestination | null;
  let events: MigrationEvent[];

  beforeEach(() => {
    dir = createScratchDir();
    destination = null;
    events = [];
  });
  afterEach(async () => {
    guest.close();
    await destination?.close();
    removeScratchDir(dir);
  });

  const makeGuest = (options: Partial<WatchedGuestOptions> = {}) => {
    guest = new WatchedGuest({ bytes: BYTES, ...options });
  };
  const makeDestination = async (script: Script) => {
    destination = await startScriptedDestination(join(dir, "socket"), script);
    return destination;
  };

  /** Migrates to the destination and asserts that it fails, once. */
  const failTo = async (path: string, job: Partial<SourceJob> = {}, channels = 2): Promise<MigrationError> => {
    const address = { kind: "unix", path } as const;
    const error = await runSource({
      guest,
      peer: new QemuSourcePeer({ address, channels, connectTimeoutMs: 5000 }),
      onEvent: (event) => events.push(event),
      compression: "none",
      level: 0,
      devices: null,
      downtimeLimitMs: 10_000,
      maxBandwidth: 0,
      roundsMax: 50,
      atRoundLimit: "switchover",
      stallTimeoutMs: 10_000,
      ...job,
    }).then(() => assert.fail("the migration went well"), ownError);
    const ends = events.filter(({ event }) => event === "failed" || event === "completed");
    assert.deepEqual(ends, [{ event: "failed", code: error.code, message: error.message }]);
    return error;
  };
  const assertNeverPaused = () => assert.deepEqual([guest.calls, guest.isRunning], [[], true]);
  const assertResumed = () => assert.deepEqual([guest.calls, guest.isRunning], [["pause", "resume"], true]);
  const assertLeftPaused = () => assert.deepEqual([guest.calls, guest.isRunning], [["pause"], false]);

  describe("by refusing", () => {
    const refuse = async (receiver: Partial<ReceiverOptions>, channels = 2) => {
      makeGuest();
      const { address, result } = await startReceiver({
        listen: `unix:${join(dir, "socket")}`,
        channels: 2,
        compression: "none",
        ram: { ram: join(dir, "ram") },
        ...receiver,
      });
      const error = await failTo(formatAddress(address).slice("unix:".length), {}, channels);
      const refusal = await result.then(() => assert.fail("the receiver took it"), ownError);
      assert.deepEqual(readdirSync(dir), [], "the receiver leaves nothing behind");
      assert.equal(guest.isRunning, true);
      return { error, refusal };
    };

    it("another compression: hears that the destination failed", async () => {
      const { error, refusal } = await refuse({ compression: "zstd" });
      assert.deepEqual([error.code, refusal.code], ["PEER_REFUSED", "MULTIFD_COMPRESSION"]);
      assertNeverPaused();
    });

    it("too many channels", async () => {
      const { error, refusal } = await refuse({}, 3);
      // Refused by word where the main channel is known by then; else it is hung up on.
      assert.match(error.code, /^(PEER_REFUSED|CHANNEL_BROKEN|CONNECT_FAILED)$/);
      assert.equal(refusal.code, "MULTIFD_CHANNEL_ID");
      assertNeverPaused();
    });

    it("too few channels", async () => {
      const { error, refusal } = await refuse({ channels: 3, handshakeTimeoutMs: 300 });
      assert.deepEqual([error.code, refusal.code], ["CHANNEL_BROKEN", "CHANNELS_MISSING"]);
      assertNeverPaused();
    });

    it("another VM's UUID", async () => {
      const { error, refusal } = await refuse({ uuid: OTHER_UUID });
      assert.match(error.code, /^(CHANNEL_BROKEN|CONNECT_FAILED)$/);
      assert.equal(refusal.code, "MULTIFD_UUID");
      assertNeverPaused();
    });

    it("device states that it has nowhere to load: the paused guest is resumed", async () => {
      makeGuest({ states: [{ idstr: "disk", instanceId: 0, bytes: Uint8Array.of(1) }] });
      const { address, result } = await startReceiver({
        listen: `unix:${join(dir, "socket")}`,
        channels: 2,
        compression: "none",
        ram: { ram: join(dir, "ram") },
      });
      const error = await failTo(formatAddress(address).slice("unix:".length));
      const refusal = await result.then(() => assert.fail("the receiver took it"), ownError);
      assert.deepEqual([error.code, refusal.code], ["PEER_REFUSED", "DEVICE_STATE_UNEXPECTED"]);
      assertResumed();
    });
  });

  describe("by going away", () => {
    it("is not there at all", async () => {
      makeGuest();
      const error = await failTo(join(dir, "nobody"));
      assert.equal(error.code, "CONNECT_FAILED");
      assert.match(error.message, /nobody: .*is the peer listening there/);
      assertNeverPaused();
    });

    const points: readonly (readonly [name: string, script: Script])[] = [
      ["when the first connection is there", { closeAtConnections: 1 }],
      ["when all connections are there", { closeAtConnections: 3 }],
      ["within the main channel's first words", { closeAfterMainBytes: 1 }],
      ["behind the list of RAM blocks", { closeAfterMainBytes: SETUP_BYTES }],
      ["within a channel's first message", { closeAfterChannelBytes: 1 }],
      ["behind a channel's first message", { closeAfterChannelBytes: 65 }],
      ["in mid-round", { closeAfterChannelBytes: 2 ** 20 }],
    ];
    for (const [name, script] of points) {
      it(`${name}: the guest never notices`, async () => {
        makeGuest();
        await makeDestination(script);
        const error = await failTo(join(dir, "socket"));
        assert.match(error.code, /^(CHANNEL_BROKEN|CONNECT_FAILED)$/, error.message);
        assertNeverPaused();
      });
    }

    it("while the guest is paused for its devices: the guest is resumed, once", async () => {
      makeGuest({ onDeviceStates: async () => destination!.hangUp() });
      await makeDestination({});
      const error = await failTo(join(dir, "socket"));
      assert.equal(error.code, "CHANNEL_BROKEN");
      assertResumed();
    });

    it("after the last byte, without a word: the guest stays paused, for nobody knows where it runs", async () => {
      makeGuest();
      await makeDestination({ atEnd: "close" });
      const error = await failTo(join(dir, "socket"));
      assert.equal(error.code, "ACKNOWLEDGEMENT_LOST");
      assert.match(error.message, /look at the destination, then resume exactly one of the two/);
      assertLeftPaused();
    });
  });

  describe("by word", () => {
    it("of failure after the last byte: the guest is resumed, once", async () => {
      makeGuest();
      await makeDestination({ atEnd: { shut: 1 } });
      const error = await failTo(join(dir, "socket"));
      assert.equal(error.code, "PEER_REFUSED");
      assertResumed();
    });

    it("of success before the last byte: that is not believed", async () => {
      const untilHeard = () => new Promise<void>(() => destination!.shut(0));
      makeGuest({ onDeviceStates: untilHeard });
      const script = await makeDestination({});
      const error = await failTo(script.address.path);
      assert.equal(error.code, "RETURN_PATH_EARLY");
      assertResumed();
    });
  });

  describe("by silence", () => {
    it("without reading a byte", async () => {
      makeGuest();
      await makeDestination({ neverRead: true });
      const error = await failTo(join(dir, "socket"), { stallTimeoutMs: 1500 });
      assert.equal(error.code, "STALLED");
      assertNeverPaused();
    });

    it("after the last byte: the guest stays paused", async () => {
      makeGuest();
      await makeDestination({});
      const error = await failTo(join(dir, "socket"), { stallTimeoutMs: 1500 });
      assert.equal(error.code, "ACKNOWLEDGEMENT_LOST");
      assert.match(error.message, /nothing has moved for 1500 ms/);
      assertLeftPaused();
    });
  });

  describe("and a cancelled one", () => {
    it("that has not begun connects to nobody", async () => {
      makeGuest();
      await makeDestination({});
      const error = await failTo(join(dir, "socket"), { signal: AbortSignal.abort() });
      assert.equal(error.code, "CANCELLED");
      assert.equal(destination!.mainBytes(), 0);
      assertNeverPaused();
    });

    it("between rounds leaves the guest running", async () => {
      makeGuest();
      await makeDestination({});
      const cancel = new AbortController();
      // Never converges: nothing fits into no downtime while the guest writes.
      const migrated = failTo(join(dir, "socket"), {
        signal: cancel.signal,
        downtimeLimitMs: 0,
        roundsMax: 2 ** 30,
        atRoundLimit: "fail", // a switchover would be forced soon
        onEvent: (event) => {
          events.push(event);
          if (event.event !== "round") return;
          guest.write();
          if (event.round === 3) cancel.abort();
        },
      });
      assert.equal((await migrated).code, "CANCELLED");
      assertNeverPaused();
    });

    it("while the guest is paused resumes it, once", async () => {
      const cancel = new AbortController();
      makeGuest({ onDeviceStates: async () => cancel.abort() });
      await makeDestination({});
      const error = await failTo(join(dir, "socket"), { signal: cancel.signal });
      assert.equal(error.code, "CANCELLED");
      assertResumed();
    });

    it("while its last bytes wait sends none of them once the guest runs again", async () => {
      const cancel = new AbortController();
      const devices = largeDevicePart();
      makeGuest({
        onDeviceStates: async () => {
          destination!.pauseMain();
          // The device part is larger than what the kernel takes: the write waits, and then comes the cancellation.
          setImmediate(() => setImmediate(() => cancel.abort()));
        },
        onResume: async () => {
          destination!.resumeMain();
          await destination!.mainEnded;
        },
      });
      await makeDestination({});
      const error = await failTo(join(dir, "socket"), { signal: cancel.signal, devices });
      assert.equal(error.code, "CANCELLED");
      assert.ok(destination!.mainBytes() < devices.sections.length, "the destination has no whole guest");
      assertResumed();
    });
  });
});

/** More than a socket's buffers hold. */
function largeDevicePart(): DevicePart {
  return {
    machineType: "none",
    ramSectionId: 1,
    configuration: Buffer.from("07000000046e6f6e65", "hex"),
    sections: Buffer.alloc(64 * 2 ** 20, 1),
  };
}
