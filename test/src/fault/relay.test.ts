/** A relay between two of our own ends: what arrives is whole, and what fails leaves the guest in one place. */
import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { join } from "node:path";
import { type MigrationEvent, type MigrationResult, runDestination, runSource, type SourceJob } from "@multifd/engine";
import { QemuDestinationPeer, QemuSourcePeer } from "@multifd/peer-qemu";
import { type Compression, ProtocolError } from "@multifd/protocol";
import { type RelayOptions, startRelay } from "../e2e/relaying.js";
import { createScratchDir, removeScratchDir } from "../peers/index.js";
import { ReceivingGuest, type Refusals, type WholeState } from "./receiving-guest.js";
import { ownError } from "./refusal.js";
import { type Script, type ScriptedDestination, startScriptedDestination } from "./scripted-destination.js";
import { WatchedGuest, type WatchedGuestOptions } from "./watched-guest.js";

const BYTES = 32 * 2 ** 20;
/** The list of RAM blocks and what stands before it. */
const SETUP_BYTES = 60;
/** Of one byte to the largest that our source sends. */
const STATES: readonly WholeState[] = Array.from({ length: 12 }, (_, index) => ({
  idstr: index % 2 === 0 ? "disk" : `0000:00:0${index}.0/ünic`,
  instanceId: index,
  bytes: randomBytes(index === 0 ? 1 : index === 1 ? 512 * 1024 : index * 1000 + 7),
}));
const BROKEN = /^(STREAM_CUT|CHANNEL_BROKEN|CHANNEL_CUT|CHANNEL_ENDED_EARLY)$/;

type Ended = { readonly result: MigrationResult | null; readonly code: string | null; readonly message: string };

describe("a relay", function () {
  this.timeout(20_000);
  let dir: string;
  let guest: WatchedGuest;
  let heir: ReceivingGuest;
  let scripted: ScriptedDestination | null;
  let told: readonly MigrationEvent[];
  beforeEach(() => {
    dir = createScratchDir();
    heir = new ReceivingGuest();
    scripted = null;
  });
  afterEach(async () => {
    await scripted?.close();
    guest.close();
    heir.close();
    removeScratchDir(dir);
  });

  type Whole = {
    readonly guest?: Partial<WatchedGuestOptions>;
    readonly job?: Partial<SourceJob>;
    readonly relay?: Partial<RelayOptions>;
    readonly channels?: number;
    readonly onSourceEvent?: (event: MigrationEvent) => void;
  };

  /** Sends a live guest into a relay that passes it on to whoever listens at `out`. */
  const send = async (whole: Whole): Promise<{ readonly source: Ended; readonly relay: Ended }> => {
    const { channels = 2 } = whole;
    guest = new WatchedGuest({ bytes: BYTES, ...whole.guest });
    const relay = await startRelay({
      listen: `unix:${join(dir, "in")}`,
      to: `unix:${join(dir, "out")}`,
      channels,
      compression: "none",
      toChannels: 2,
      toCompression: "none",
      ...whole.relay,
    });
    told = relay.events;
    const given = runSource({
      guest,
      peer: new QemuSourcePeer({ address: relay.address, channels, connectTimeoutMs: 5000 }),
      onEvent: (event) => {
        if (event.event === "round" && guest.isRunning) guest.write(); // so that no round leaves nothing to do
        whole.onSourceEvent?.(event);
      },
      compression: whole.relay?.compression ?? "none",
      level: 1,
      devices: null,
      downtimeLimitMs: 50,
      maxBandwidth: 0,
      roundsMax: 20,
      atRoundLimit: "switchover",
      stallTimeoutMs: 10_000,
      ...whole.job,
    });
    const [source, relayed] = await Promise.all([given, relay.result].map(ended));
    const last = told.filter(({ event }) => event === "completed" || event === "failed");
    assert.deepEqual([last.length, told.at(-1)], [1, last[0]], "one end is told, last");
    return { source: source!, relay: relayed! };
  };

  /** The same, with one of our destinations behind it. */
  const pass = async (whole: Whole, signal?: AbortSignal) => {
    const { toChannels = 2, toCompression = "none" } = whole.relay ?? {};
    const address = { kind: "unix", path: join(dir, "out") } as const;
    const peer = await QemuDestinationPeer.listen(address, { channels: toChannels, handshakeTimeoutMs: 10_000 });
    const taken = runDestination({
      guest: heir,
      peer,
      compression: toCompression,
      stallTimeoutMs: 10_000,
      onEvent: () => {},
      ...(signal === undefined ? {} : { signal }),
    });
    const [{ source, relay }, destination] = await Promise.all([send(whole), ended(taken)]);
    return { source, relay, destination };
  };

  const passTo = async (script: Script, whole: Whole = {}) => {
    scripted = await startScriptedDestination(join(dir, "out"), script);
    return send(whole);
  };

  /** Whether it was paused meanwhile is between the source and its clock. */
  const assertRunsOn = () => assert.equal(guest.isRunning, true);
  const assertNeverPaused = () => assert.deepEqual([guest.calls, guest.isRunning], [[], true]);
  const assertResumed = () => assert.deepEqual([guest.calls, guest.isRunning], [["pause", "resume"], true]);
  const assertLeftPaused = () => assert.deepEqual([guest.calls, guest.isRunning], [["pause"], false]);

  const settings: readonly (readonly [number, Compression, number, Compression])[] = [
    [1, "none", 4, "none"],
    [4, "none", 1, "zstd"],
    [2, "zstd", 3, "zlib"],
    [3, "zlib", 2, "none"],
  ];
  for (const [channels, compression, toChannels, toCompression] of settings) {
    it(`passes pages and devices' states on: ${compression} × ${channels} in, ${toCompression} × ${toChannels} out`, async () => {
      const relay = { compression, toChannels, toCompression };
      const ends = await pass({ channels, relay, guest: { states: STATES } });
      assert.deepEqual([ends.source.message, ends.relay.message, ends.destination.message], ["", "", ""]);
      assert.ok(guest.contents().equals(heir.contents()), "its RAM is that of the paused guest");
      assert.ok(guest.writes > 0, "it wrote while it moved");
      assertLeftPaused();
      assertSameStates(heir.states, STATES);
      const [sent, passed, taken] = [ends.source.result!, ends.relay.result!, ends.destination.result!];
      assert.equal(passed.acknowledged, true);
      assert.deepEqual([passed.normalPages, passed.zeroPages], [taken.normalPages, taken.zeroPages]);
      assert.deepEqual([passed.rounds, passed.ramBytes], [sent.rounds, BYTES]);
      assert.equal(passed.wireBytes, taken.wireBytes, "what left is what arrived");
      assert.equal((passed as typeof passed & { wireBytesIn: number }).wireBytesIn, sent.wireBytes);
      assert.equal(told.filter(({ event }) => event === "connected").length, 2);
      assert.equal(told.filter(({ event }) => event === "round").length, passed.rounds);
    });
  }

  const refusals: readonly (readonly [step: keyof Refusals, paused: boolean])[] = [
    ["placeRam", false],
    ["loadDeviceState", true],
    ["loadDevices", true],
    ["commit", true],
  ];
  for (const [step, paused] of refusals) {
    it(`passes on that the destination refuses in ${step}`, async () => {
      heir = new ReceivingGuest({ [step]: new ProtocolError("HEIR_REFUSES", `refused in ${step}`) });
      const { source, relay, destination } = await pass({ guest: { states: STATES } });
      assert.deepEqual([source.code, relay.code, destination.code], ["PEER_REFUSED", "PEER_REFUSED", "HEIR_REFUSES"]);
      assert.match(relay.message, /^destination at unix:/);
      if (paused) assertResumed();
      else assertNeverPaused();
    });
  }

  it("refuses a source that compresses otherwise than it was told, and cuts the destination off", async () => {
    const { source, relay, destination } = await pass({ job: { compression: "zstd" } });
    assert.deepEqual([source.code, relay.code], ["PEER_REFUSED", "MULTIFD_COMPRESSION"]);
    assert.match(relay.message, /^source at unix:.*channel \d, packet/);
    assert.match(destination.code!, BROKEN);
    assert.deepEqual(heir.calls, ["placeRam", "abandon"]);
    assertRunsOn();
  });

  it("refuses a source when nobody is there to pass it on to", async () => {
    const { source, relay } = await send({});
    assert.deepEqual([BROKEN.test(source.code!), relay.code], [true, "CONNECT_FAILED"]);
    assertRunsOn();
  });

  describe("whose destination goes away", () => {
    const moments: readonly (readonly [string, Script])[] = [
      ["at the first connection", { closeAtConnections: 1 }],
      ["when all connections are there", { closeAtConnections: 3 }],
      ["within the main channel's first words", { closeAfterMainBytes: 1 }],
      ["behind the list of RAM blocks", { closeAfterMainBytes: SETUP_BYTES + 1 }],
      ["within a channel's first message", { closeAfterChannelBytes: 1 }],
      ["in mid-round", { closeAfterChannelBytes: 4 * 2 ** 20 }],
    ];
    for (const [when, script] of moments) {
      it(`${when}: the guest runs on`, async () => {
        const { source, relay } = await passTo(script, { job: { downtimeLimitMs: 0, roundsMax: 2 ** 30 } });
        assert.match(relay.code!, /^(CHANNEL_BROKEN|CONNECT_FAILED)$/);
        assert.match(relay.message, /unix:.*out/, "it says which side it was");
        assert.match(source.code!, /^(PEER_REFUSED|CHANNEL_BROKEN|CHANNEL_CUT)$/);
        assertRunsOn();
      });
    }

    it("after the last byte, without a word: nobody is told that it failed, and the guest stays paused", async () => {
      const { source, relay } = await passTo({ atEnd: "close" });
      assert.deepEqual([source.code, relay.code], ["ACKNOWLEDGEMENT_LOST", "ACKNOWLEDGEMENT_LOST"]);
      assertLeftPaused();
    });
  });

  describe("whose destination", () => {
    it("says after the last byte that it failed: the guest is resumed, once", async () => {
      const { source, relay } = await passTo({ atEnd: { shut: 3 } });
      assert.deepEqual([source.code, relay.code], ["PEER_REFUSED", "PEER_REFUSED"]);
      assert.match(relay.message, /status 3/);
      assertResumed();
    });

    it("claims success before the last byte: that is not believed, nor passed on", async () => {
      const { source, relay } = await passTo(
        {},
        {
          job: { downtimeLimitMs: 0, roundsMax: 2 ** 30 },
          onSourceEvent: (event) => {
            if (event.event === "round" && event.round === 3) scripted!.shut(0);
          },
        },
      );
      assert.deepEqual([source.code, relay.code], ["PEER_REFUSED", "RETURN_PATH_EARLY"]);
      assertRunsOn();
    });

    it("never reads a byte: the source is told after the stall timeout", async () => {
      const { source, relay } = await passTo({ neverRead: true }, { relay: { stallTimeoutMs: 2000 } });
      assert.equal(relay.code, "STALLED");
      assert.match(relay.message, /sending a round on|passing packets on/);
      assert.equal(source.code, "PEER_REFUSED");
      assertRunsOn();
    });

    it("is silent after the last byte: nobody guesses, and the guest stays paused", async () => {
      const { source, relay } = await passTo({}, { relay: { stallTimeoutMs: 5000 } });
      assert.match(relay.message, /everything was passed on.*nothing has moved/);
      assert.deepEqual([source.code, relay.code], ["ACKNOWLEDGEMENT_LOST", "ACKNOWLEDGEMENT_LOST"]);
      assertLeftPaused();
    });
  });

  describe("that is cancelled", () => {
    const endless = { downtimeLimitMs: 0, roundsMax: 2 ** 30 };
    const atThirdRound = (cancel: AbortController) => (event: MigrationEvent) => {
      if (event.event === "round" && event.round === 3) cancel.abort();
    };

    it("itself gives the guest back, and cuts the destination off", async () => {
      const cancel = new AbortController();
      const { source, relay, destination } = await pass({
        job: endless,
        relay: { signal: cancel.signal },
        onSourceEvent: atThirdRound(cancel),
      });
      assert.deepEqual([source.code, relay.code], ["PEER_REFUSED", "CANCELLED"]);
      assert.match(destination.code!, BROKEN);
      assertRunsOn();
    });

    it("by the source cuts the destination off", async () => {
      const cancel = new AbortController();
      const { source, relay, destination } = await pass({
        job: { ...endless, signal: cancel.signal },
        onSourceEvent: atThirdRound(cancel),
      });
      assert.equal(source.code, "CANCELLED");
      assert.match(relay.code!, BROKEN);
      assert.match(relay.message, /^(source at unix:|channel)/);
      assert.match(destination.code!, BROKEN);
      assert.deepEqual(heir.calls, ["placeRam", "abandon"]);
      assertRunsOn();
    });

    it("by the destination passes that on", async () => {
      const cancel = new AbortController();
      const { source, relay, destination } = await pass(
        { job: endless, onSourceEvent: atThirdRound(cancel) },
        cancel.signal,
      );
      assert.deepEqual([source.code, relay.code, destination.code], ["PEER_REFUSED", "PEER_REFUSED", "CANCELLED"]);
      assertRunsOn();
    });

    it("before anybody came is over at once", async () => {
      guest = new WatchedGuest({ bytes: 4096, stopped: true });
      const cancel = new AbortController();
      const relay = await startRelay({
        listen: `unix:${join(dir, "in")}`,
        to: `unix:${join(dir, "out")}`,
        channels: 2,
        compression: "none",
        toChannels: 2,
        toCompression: "none",
        signal: cancel.signal,
      });
      cancel.abort();
      assert.equal((await ended(relay.result)).code, "CANCELLED");
      assert.deepEqual(
        relay.events.map(({ event }) => event),
        ["failed"],
      );
    });
  });
});

function ended(migration: Promise<MigrationResult>): Promise<Ended> {
  return migration.then(
    (result) => ({ result, code: null, message: "" }),
    (error: unknown) => {
      const { code, message } = ownError(error);
      return { result: null, code, message };
    },
  );
}

/** Channels deliver in any order, so both are sorted. */
function assertSameStates(came: readonly WholeState[], due: readonly WholeState[]): void {
  const sorted = (states: readonly WholeState[]) =>
    [...states]
      .sort((a, b) => a.instanceId - b.instanceId)
      .map(({ idstr, instanceId, bytes }) => ({ idstr, instanceId, bytes: Buffer.from(bytes) }));
  assert.deepEqual(sorted(came), sorted(due));
}
