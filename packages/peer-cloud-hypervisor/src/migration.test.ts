import assert from "node:assert/strict";
import { join } from "node:path";
import { parseAddress } from "@multifd/channel";
import { ERAS, type EraName } from "@multifd/protocol";
import {
  destinationJob,
  FixtureDestination,
  FixtureSource,
  makeSocketDir,
  STATE,
  settle,
  sourceJob,
  startDestination,
  threads,
} from "./fixture.js";
import { descriptorsOf } from "./fixture-descriptors.js";
import { runCloudHypervisorSource } from "./source.js";

describe("migration between our two ends of Cloud Hypervisor's protocol", () => {
  const directory = makeSocketDir();
  const socketPath = join(directory.path, "in.sock");
  let source: FixtureSource;
  let destination: FixtureDestination;
  beforeEach(() => {
    source = new FixtureSource();
    destination = new FixtureDestination();
  });
  afterEach(() => {
    source.close();
    destination.close();
  });
  after(async () => {
    await threads.end();
    directory.drop();
  });

  async function migrate(
    to: Parameters<typeof destinationJob>[2] = {},
    from: Parameters<typeof sourceJob>[2] = {},
  ): Promise<void> {
    const receiving = await startDestination(destinationJob(destination, socketPath, to));
    const address = parseAddress(receiving.address);
    const sent = await settle(runCloudHypervisorSource(sourceJob(source, socketPath, { address, ...from })));
    const received = await receiving.outcome;
    assert.deepEqual(
      [sent, received],
      [
        { ok: true, acknowledged: true },
        { ok: true, acknowledged: true },
      ],
    );
    assert.deepEqual(destination.config, Uint8Array.from(source.config));
    assert.deepEqual(destination.state, Uint8Array.from(STATE));
  }

  for (const [form, address] of [
    ["unix", null],
    ["tcp", { kind: "tcp", host: "127.0.0.1", port: 0 }],
  ] as const) {
    for (const channels of [1, 8]) {
      for (const era of channels === 1 ? (["v43", "v53"] as const) : (["v52", "next"] as const)) {
        it(`brings RAM, Config and State over, byte for byte: ${form}, ${channels} channels, ${era}`, async () => {
          source.onPause = () => source.dirty(1, 383, 7);
          source.onSnapshot = () => source.dirty(0, 255, 9);
          await migrate(address === null ? {} : { address }, { channels, era: ERAS[era] });
          assert.deepEqual(destination.content(), source.content());
          assert.deepEqual(source.calls, ["pause", "snapshot"]);
          assert.deepEqual(destination.calls, ["config", "place", "state", "commit resume"]);
        }).timeout(30_000);
      }
    }
  }

  it("leaves what the RAM files lack at zero, and sends no byte of it", async () => {
    source.close();
    source = new FixtureSource({ live: false, mappings: [{ gpa: 0, bytes: 1 << 24, slot: 0 }] });
    const { MemoryFile } = await import("./fixture.js");
    const sparse = new MemoryFile(1 << 24);
    sparse.write(5 << 20, new Uint8Array(8192).fill(3));
    source.guest.ram[0] = { ...source.guest.ram[0]!, descriptor: sparse.descriptor };
    let wireBytes = 0;
    await migrate(
      {},
      {
        onEvent: (event) => {
          if (event.event === "completed") wireBytes = event.wireBytes;
        },
      },
    );
    assert.deepEqual(destination.content(), [sparse.read()]);
    assert.ok(wireBytes < 64 * 1024, `${wireBytes} bytes crossed`);
    sparse.close();
  });

  it("hands the files themselves over, slot by slot, before Config", async () => {
    await migrate({}, { memory: "descriptors" });
    assert.deepEqual(destination.calls, ["config", "adopt", "state", "commit resume"]);
    assert.deepEqual(
      destination.adopted.map(({ slot, offsetBytes }) => [slot, offsetBytes]),
      [
        [0, 0],
        [5, 0],
      ],
    );
    assert.equal(descriptorsOf(source.files), 2 * source.files.length, "each end has its own");
    source.dirty(1, 3, 77);
    const { mapFile, readMemory, unmap } = await import("@multifd/native");
    const mapping = mapFile(destination.adopted[1]!.descriptor, { lengthBytes: 3 << 19, writable: false });
    const seen = new Uint8Array(1);
    readMemory(mapping, 3 * 4096, seen);
    unmap(mapping);
    assert.equal(seen[0], 77, "both ends map the same file");
  });

  it("leaves the guest paused where that is asked for", async () => {
    await migrate({}, { handOver: "leave-paused" });
    assert.equal(destination.calls.at(-1), "commit leave-paused");
  });

  it("fetches every page on demand from a paused source", async () => {
    await migrate({ memory: "on-demand" }, { memory: "on-demand" });
    assert.deepEqual(destination.content(), source.content());
    assert.deepEqual(source.calls, ["pause", "snapshot"]);
  });

  for (const era of ["v21", "v52"] as const satisfies readonly EraName[]) {
    it(`goes on until a writing guest is still, in the way of ${era}`, async () => {
      let rounds = 0;
      await migrate(
        {},
        {
          era: ERAS[era],
          downtimeLimitMs: 0,
          onEvent: (event) => {
            if (event.event !== "round") return;
            rounds++;
            if (rounds <= 3) source.dirty(0, rounds, rounds);
          },
        },
      );
      assert.deepEqual(destination.content(), source.content());
      assert.equal(rounds, 4);
    });
  }

  it("makes five passes and no more for a guest that never stops writing, until v51", async () => {
    let rounds = 0;
    await migrate(
      {},
      {
        era: ERAS.v50,
        onEvent: (event) => {
          if (event.event === "round") source.dirty(0, ++rounds, rounds);
        },
      },
    );
    assert.equal(rounds, 8); // all of RAM, five passes, one when paused, and what that event wrote after the snapshot
  });

  it("gives a guest that never stops writing up where it was told to, and lets it go on", async () => {
    const receiving = await startDestination(destinationJob(destination, socketPath));
    let rounds = 0;
    const sent = await settle(
      runCloudHypervisorSource(
        sourceJob(source, socketPath, {
          downtimeLimitMs: 0,
          roundsMax: 3,
          onEvent: (event) => {
            if (event.event === "round") source.dirty(0, ++rounds, rounds);
          },
        }),
      ),
    );
    assert.equal(!sent.ok && sent.code, "WILL_NOT_CONVERGE");
    const received = await receiving.outcome;
    assert.equal(!received.ok && received.code, "ABANDONED");
    assert.deepEqual([source.calls, destination.calls.at(-1)], [[], "abandon"]);
  });
});
