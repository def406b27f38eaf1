/** A live guest from one engine to another in this process: taken whole, or given back. */
import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { join } from "node:path";
import { type MigrationEvent, type MigrationResult, runDestination, runSource, type SourceJob } from "@multifd/engine";
import { QemuDestinationPeer, QemuSourcePeer, type QemuSourceTerms } from "@multifd/peer-qemu";
import { type Compression, ProtocolError } from "@multifd/protocol";
import { createScratchDir, removeScratchDir } from "../peers/index.js";
import { ReceivingGuest, type Refusals, type WholeState } from "./receiving-guest.js";
import { ownError } from "./refusal.js";
import { WatchedGuest, type WatchedGuestOptions } from "./watched-guest.js";

const BYTES = 32 * 2 ** 20;
/** More than the stage has places for, of one byte to the largest, so that some must wait. */
const STATES: readonly WholeState[] = Array.from({ length: 12 }, (_, index) => ({
  idstr: index % 2 === 0 ? "disk" : `0000:00:0${index}.0/ünic`,
  instanceId: index,
  bytes: randomBytes(index === 0 ? 1 : index === 1 ? 512 * 1024 : index * 1000 + 7),
}));

type Ended = { readonly result: MigrationResult | null; readonly code: string | null };

describe("a live guest between two engines", function () {
  this.timeout(20_000);
  let dir: string;
  let guest: WatchedGuest;
  let heir: ReceivingGuest;
  let sent: MigrationEvent[];
  let received: MigrationEvent[];
  beforeEach(() => {
    dir = createScratchDir();
    sent = [];
    received = [];
  });
  afterEach(() => {
    guest.close();
    heir.close();
    removeScratchDir(dir);
  });

  type Both = {
    readonly guest?: Partial<WatchedGuestOptions>;
    readonly heir?: ReceivingGuest;
    readonly job?: Partial<SourceJob>;
    readonly compression?: Compression;
    readonly channels?: number;
    readonly destinationSignal?: AbortSignal;
    readonly terms?: Partial<QemuSourceTerms>;
    readonly onSourceEvent?: (event: MigrationEvent) => void;
  };

  const migrate = async (both: Both): Promise<{ readonly source: Ended; readonly destination: Ended }> => {
    const { compression = "none", channels = 2, destinationSignal } = both;
    guest = new WatchedGuest({ bytes: BYTES, ...both.guest });
    heir = both.heir ?? new ReceivingGuest();
    const address = { kind: "unix", path: join(dir, "socket") } as const;
    const peer = await QemuDestinationPeer.listen(address, { channels, handshakeTimeoutMs: 10_000 });
    const taken = runDestination({
      guest: heir,
      peer,
      compression,
      stallTimeoutMs: 10_000,
      onEvent: (event) => received.push(event),
      ...(destinationSignal === undefined ? {} : { signal: destinationSignal }),
    });
    const given = runSource({
      guest,
      peer: new QemuSourcePeer({ address, channels, connectTimeoutMs: 5000, ...both.terms }),
      onEvent: (event) => {
        sent.push(event);
        if (event.event === "round" && guest.isRunning) guest.write(); // so that no round leaves nothing to do
        both.onSourceEvent?.(event);
      },
      compression,
      level: 1,
      devices: null,
      downtimeLimitMs: 50,
      maxBandwidth: 0,
      roundsMax: 20,
      atRoundLimit: "switchover",
      stallTimeoutMs: 10_000,
      ...both.job,
    });
    const [source, destination] = await Promise.all([given, taken].map(ended));
    return { source: source!, destination: destination! };
  };

  for (const compression of ["none", "zlib", "zstd"] as const) {
    for (const channels of [1, 4]) {
      it(`arrives byte for byte: ${compression}, ${channels} channels`, async () => {
        const { source, destination } = await migrate({ compression, channels, guest: { states: STATES } });
        assert.deepEqual([source.code, destination.code], [null, null]);
        assert.ok(guest.contents().equals(heir.contents()), "its RAM is that of the paused guest");
        assert.ok(guest.writes > 0, "it wrote while it moved");
        assert.deepEqual([guest.calls, guest.isRunning], [["pause"], false], "it never runs here again");
        assert.deepEqual(heir.calls, ["placeRam", "loadDevices", "commit"]);
        assertSameStates(heir.states, STATES);
        assert.equal(source.result!.acknowledged, true);
        assert.equal(sent.at(-1)?.event, "completed");
        assert.equal(received.at(-1)?.event, "completed");
      });
    }
  }

  for (const [syncPer, compression, channels] of [
    ["section", "none", 1],
    ["section", "zstd", 4],
    ["round", "zlib", 2],
  ] as const) {
    it(`arrives byte for byte with zero pages on the main channel, a sync per ${syncPer}: ${compression}`, async () => {
      const dialect = { syncPer, zeroPages: "on-main", switchoverStart: false } as const;
      const { source, destination } = await migrate({ compression, channels, terms: { dialect } });
      assert.deepEqual([source.code, destination.code], [null, null]);
      assert.ok(guest.contents().equals(heir.contents()), "its RAM is that of the paused guest");
      assert.ok(source.result!.rounds >= 2 && source.result!.zeroPages > BYTES / 4096 / 3);
      assert.equal(destination.result!.zeroPages, source.result!.zeroPages);
    });
  }

  it("arrives byte for byte although a disk reads into its RAM behind the tracker's back", async () => {
    const { source, destination } = await migrate({ guest: { transfers: true } });
    assert.deepEqual([source.code, destination.code], [null, null]);
    assert.ok(guest.contents().equals(heir.contents()), "its RAM is that of the paused guest");
    assert.ok(source.result!.rounds >= 2);
  });

  it("arrives at a destination that cannot answer, and nobody is said to have acknowledged it", async () => {
    const { source, destination } = await migrate({ terms: { returnPath: "none" } });
    assert.deepEqual([source.code, destination.code], [null, null]);
    assert.deepEqual([source.result!.acknowledged, destination.result!.acknowledged], [false, false]);
    assert.ok(guest.contents().equals(heir.contents()));
    assert.deepEqual([guest.calls, guest.isRunning], [["pause"], false], "it never runs here again");
  });

  it("arrives byte for byte where pages are placed through a mapping", async () => {
    const { source } = await migrate({ heir: new ReceivingGuest({}, "mapping"), guest: { states: STATES } });
    assert.equal(source.code, null);
    assert.ok(guest.contents().equals(heir.contents()));
    assertSameStates(heir.states, STATES);
  });

  it("is given up when it outruns the link and may not be stopped", async () => {
    const { source, destination } = await migrate({ job: { downtimeLimitMs: 0, roundsMax: 3, atRoundLimit: "fail" } });
    assert.equal(source.code, "WILL_NOT_CONVERGE");
    assert.match(destination.code!, /^(STREAM_CUT|CHANNEL_BROKEN|CHANNEL_CUT|CHANNEL_ENDED_EARLY)$/);
    assert.deepEqual([guest.calls, guest.isRunning], [[], true]);
    assert.deepEqual(heir.calls, ["placeRam", "abandon"]);
  });

  const refusals: readonly (readonly [step: keyof Refusals, paused: boolean])[] = [
    ["placeRam", false],
    ["loadDeviceState", true],
    ["loadDevices", true],
    ["commit", true],
  ];
  for (const [step, paused] of refusals) {
    it(`goes on at the source when the heir refuses in ${step}`, async () => {
      const refusal = new ProtocolError("HEIR_REFUSES", `refused in ${step}`);
      const { source, destination } = await migrate({
        heir: new ReceivingGuest({ [step]: refusal }),
        guest: { states: STATES },
      });
      assert.deepEqual([source.code, destination.code], ["PEER_REFUSED", "HEIR_REFUSES"]);
      assert.deepEqual([guest.calls, guest.isRunning], [paused ? ["pause", "resume"] : [], true]);
      assert.equal(heir.calls.at(-1), "abandon");
      assert.equal(heir.calls.filter((call) => call === "abandon").length, 1);
      assert.equal(received.filter(({ event }) => event === "failed").length, 1);
    });
  }

  it("goes on at the source when the destination is cancelled between rounds", async () => {
    const cancel = new AbortController();
    const { source, destination } = await migrate({
      destinationSignal: cancel.signal,
      job: { downtimeLimitMs: 0, roundsMax: 2 ** 30, atRoundLimit: "fail" },
      onSourceEvent: (event) => {
        if (event.event === "round" && event.round === 3) cancel.abort();
      },
    });
    assert.deepEqual([source.code, destination.code], ["PEER_REFUSED", "CANCELLED"]);
    assert.deepEqual([guest.calls, guest.isRunning], [[], true]);
    assert.deepEqual(heir.calls, ["placeRam", "abandon"]);
  });

  it("goes on at the source when that is cancelled between rounds, and the destination gives all back", async () => {
    const cancel = new AbortController();
    const { source, destination } = await migrate({
      job: { signal: cancel.signal, downtimeLimitMs: 0, roundsMax: 2 ** 30, atRoundLimit: "fail" },
      onSourceEvent: (event) => {
        if (event.event === "round" && event.round === 3) cancel.abort();
      },
    });
    assert.equal(source.code, "CANCELLED");
    assert.match(destination.code!, /^(STREAM_CUT|CHANNEL_BROKEN|CHANNEL_CUT|CHANNEL_ENDED_EARLY)$/);
    assert.deepEqual([guest.calls, guest.isRunning], [[], true]);
    assert.deepEqual(heir.calls, ["placeRam", "abandon"]);
  });

  it("is not waited for any longer when the destination is cancelled before anybody came", async () => {
    guest = new WatchedGuest({ bytes: 4096, stopped: true });
    heir = new ReceivingGuest();
    const path = join(dir, "socket");
    const peer = await QemuDestinationPeer.listen({ kind: "unix", path }, { channels: 2, handshakeTimeoutMs: 10_000 });
    const cancel = new AbortController();
    const taken = ended(
      runDestination({
        guest: heir,
        peer,
        compression: "none",
        stallTimeoutMs: 10_000,
        onEvent: (event) => received.push(event),
        signal: cancel.signal,
      }),
    );
    cancel.abort();
    assert.equal((await taken).code, "CANCELLED");
    assert.deepEqual(heir.calls, ["abandon"]);
    assert.deepEqual(
      received.map(({ event }) => event),
      ["failed"],
    );
  });
});

function ended(migration: Promise<MigrationResult>): Promise<Ended> {
  return migration.then(
    (result) => ({ result, code: null }),
    (error: unknown) => ({ result: null, code: ownError(error).code }),
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
