import assert from "node:assert/strict";
import { runInThread } from "./fixture.js";
import type { ClaimedPacket } from "./fixture-thread.js";
import { PACKET_KIND, PacketRing } from "./packet-ring.js";

const PAGES_MAX = 8;
const THREADS = 3;

/** Packet `packet` of a round: a few page indexes that tell which one it is. */
function pagesOf(packet: number): number[] {
  return Array.from({ length: 1 + (packet % PAGES_MAX) }, (_, i) => packet * PAGES_MAX + i);
}

/** Publishes a round as the coordinator does, never more than the ring holds, and waits for every thread's arrival. */
async function publishRound(ring: PacketRing, block: number, packets: number): Promise<void> {
  ring.openRound();
  for (let packet = 0; packet < packets; ) {
    const { bell } = ring;
    for (; packet < packets && ring.hasRoom(); packet++) {
      const slot = ring.nextSlot();
      const pages = pagesOf(packet);
      slot.pages.set(pages, slot.at);
      ring.publish(PACKET_KIND.ram, block, pages.length);
    }
    ring.announce();
    if (packet < packets) await ring.waitForBell(bell, 10_000);
  }
  ring.closeRound();
  await allArrived(ring);
}

async function allArrived(ring: PacketRing): Promise<void> {
  for (;;) {
    const { bell } = ring;
    if (ring.arrived === THREADS) return;
    await ring.waitForBell(bell, 10_000);
  }
}

describe("packet ring", () => {
  let ring: PacketRing;
  let threads: Promise<ClaimedPacket[]>[];
  beforeEach(() => {
    ring = new PacketRing(PAGES_MAX);
    threads = Array.from({ length: THREADS }, () =>
      runInThread({ kind: "claim", ring: ring.shared, pagesMax: PAGES_MAX }),
    );
  });

  it("gives each packet of each round to exactly one thread, many more than it has slots", async () => {
    const rounds = [5000, 1, 0, 1024, 1025, 3 * 1024 + 7];
    for (const [index, packets] of rounds.entries()) {
      await publishRound(ring, index + 1, packets);
      assert.equal(ring.publishedPackets, packets);
      assert.equal(ring.sentPackets, packets);
    }
    ring.stop("end");
    const claimed = (await Promise.all(threads)).flat();
    for (const [index, packets] of rounds.entries()) {
      const ofRound = claimed.filter(({ block }) => block === index + 1);
      const byNumber = ofRound.toSorted((a, b) => a.pages[0]! - b.pages[0]!);
      assert.deepEqual(
        byNumber.map(({ pages }) => pages),
        Array.from({ length: packets }, (_, packet) => pagesOf(packet)),
        `the packets of round ${index + 1}`,
      );
    }
    assert.ok(
      claimed.every(({ round, block }) => round === block),
      "no packet was claimed in another round than its own",
    );
  });

  it("has no room for more packets than slots until somebody takes one", async () => {
    const idle = new PacketRing(PAGES_MAX);
    idle.openRound();
    let published = 0;
    for (; idle.hasRoom(); published++) idle.publish(PACKET_KIND.ram, 0, 1);
    assert.equal(published, 1024);
    idle.take(idle.claim(), { kind: 0, block: 0, count: 0 }, new Uint32Array(PAGES_MAX));
    assert.equal(idle.hasRoom(), true);
    ring.stop("giveUp");
    await Promise.all(threads);
  });

  it("sends threads home that wait for a round", async () => {
    ring.stop("end");
    assert.deepEqual(await Promise.all(threads), [[], [], []]);
  });

  it("lets threads finish the round that is open when it is told to end", async () => {
    ring.openRound();
    ring.stop("end");
    for (let packet = 0; packet < 100; packet++) ring.publish(PACKET_KIND.ram, 1, 0);
    ring.closeRound();
    const claimed = (await Promise.all(threads)).flat();
    assert.equal(claimed.length, 100);
    assert.equal(ring.arrived, THREADS);
  });

  it("gives up threads that wait for packets of an open round", async () => {
    ring.openRound();
    ring.publish(PACKET_KIND.ram, 1, 0);
    ring.announce();
    for (; ring.sentPackets < 1; ) await new Promise(setImmediate);
    ring.stop("giveUp");
    assert.equal((await Promise.all(threads)).flat().length, 1);
    assert.equal(ring.arrived, 0);
  });
});

describe("packet numbers", () => {
  it("are counted once over all channels", () => {
    const ring = new PacketRing(PAGES_MAX);
    const other = new PacketRing(PAGES_MAX, ring.shared);
    assert.deepEqual([ring.nextPacketNumber(), other.nextPacketNumber(), ring.nextPacketNumber()], [0, 1, 2]);
  });
});
