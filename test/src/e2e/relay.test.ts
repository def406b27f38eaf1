/** A running guest passes from one QEMU to another through a relay, or through two with a compressed link between them. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { formatAddress } from "@multifd/channel";
import type { Compression, QemuCompression } from "@multifd/protocol";
import {
  bootGuestSector,
  checkBootGuest,
  createScratchDir,
  QemuProcess,
  type QemuVersion,
  removeScratchDir,
  sixteenMegabytes,
  waitForProgress,
  waitForSweep,
  zeroImage,
} from "../peers/index.js";
import { type RunningRelay, startRelay } from "./relaying.js";

const BYTES = 32 * 2 ** 20;
const MACHINE = "pc-i440fx-7.2";

type Setting = { readonly channels: number; readonly compression: QemuCompression };
type Passage = {
  readonly from: QemuVersion;
  readonly to: QemuVersion;
  /** Both ends' machine type; the versions' own unless they differ. */
  readonly machine?: string;
  /** As the source is told. */
  readonly source: Setting;
  /** Between the two relays; without one there is one relay. */
  readonly between?: { readonly channels: number; readonly compression: Compression };
  /** As the destination is told. */
  readonly destination: Setting;
  /** How the destination is reached. */
  readonly over: "unix" | "tcp";
  /** The source does not ask to be told how it ends. */
  readonly withoutReturnPath?: boolean;
};

const none = (channels: number): Setting => ({ channels, compression: "none" });
const zlib = (channels: number): Setting => ({ channels, compression: "zlib" });
const lz4 = (channels: number) => ({ channels, compression: "lz4" }) as const;
const zstd = (channels: number): Setting => ({ channels, compression: "zstd" });

const passages: readonly Passage[] = [
  { from: "7.2", to: "7.2", source: none(2), destination: zstd(4), over: "tcp" },
  { from: "7.2", to: "7.2", source: zstd(4), between: none(2), destination: zlib(1), over: "unix" },
  { from: "11.1", to: "11.1", source: none(2), destination: zstd(4), over: "unix" },
  { from: "11.1", to: "11.1", source: zstd(4), destination: none(1), over: "tcp" },
  { from: "11.1", to: "11.1", source: none(2), between: zstd(3), destination: none(2), over: "unix" },
  { from: "11.1", to: "11.1", source: none(2), destination: none(2), over: "unix", withoutReturnPath: true },
  { from: "7.2", to: "11.1", machine: MACHINE, source: zlib(2), destination: none(4), over: "unix" },
  { from: "7.2", to: "11.1", machine: MACHINE, source: none(4), between: zstd(1), destination: none(2), over: "tcp" },
  { from: "11.1", to: "11.1", source: none(2), between: lz4(3), destination: zstd(2), over: "unix" },
  { from: "7.2", to: "7.2", source: zlib(1), between: lz4(2), destination: none(2), over: "tcp" },
];

function title({ from, to, source, between, destination, over, withoutReturnPath }: Passage): string {
  const name = ({ channels, compression }: Setting | NonNullable<Passage["between"]>) => `${compression} × ${channels}`;
  const link = between === undefined ? "" : ` → relay → ${name(between)}`;
  return `${from} → ${name(source)}${link} → relay → ${name(destination)} over ${over} → ${to}${withoutReturnPath ? ", without a return path" : ""}`;
}

describe("a running guest that is relayed", () => {
  const bootSector = bootGuestSector(sixteenMegabytes);
  let dir: string;
  let vms: QemuProcess[];
  const path = (name: string) => join(dir, name);
  const start = async (version: QemuVersion, file: string, machine?: string, incoming?: string) => {
    zeroImage(path(file), BYTES);
    const memory = [{ id: "pc.ram", path: path(file), bytes: BYTES }];
    const vm = await QemuProcess.start({
      version,
      memory,
      bootSector,
      ...(machine ? { machine } : {}),
      ...(incoming ? { incoming } : {}),
    });
    vms.push(vm);
    return vm;
  };

  beforeEach(() => {
    dir = createScratchDir();
    vms = [];
  });
  afterEach(async () => {
    await Promise.all(vms.map((vm) => vm.stop()));
    removeScratchDir(dir);
  });

  /** Starts one relay, or two in a row. @returns them, the source's first. */
  const startRelays = async ({ source, between, destination }: Passage, to: string): Promise<RunningRelay[]> => {
    const hops = between === undefined ? [source, destination] : [source, between, destination];
    const relays: RunningRelay[] = [];
    for (let hop = hops.length - 2; hop >= 0; hop--) {
      const [incoming, outgoing] = [hops[hop]!, hops[hop + 1]!];
      const relay = await startRelay({
        listen: `unix:${path(`relay${hop}`)}`,
        to: relays[0] === undefined ? to : formatAddress(relays[0].address),
        ...incoming,
        toChannels: outgoing.channels,
        toCompression: outgoing.compression,
      });
      relays.unshift(relay);
    }
    return relays;
  };

  for (const passage of passages) {
    it(`runs on at the destination, its counters in sequence: ${title(passage)}`, async () => {
      const first = await start(passage.from, "first", passage.machine);
      const second = await start(passage.to, "second", passage.machine, "defer");
      await waitForSweep(path("first"), 1);
      await second.setMigration(passage.destination);
      await second.listen(passage.over === "tcp" ? "tcp:127.0.0.1:0" : `unix:${path("out")}`);
      const relays = await startRelays(passage, await addressOf(second, `unix:${path("out")}`));
      // The guest dirties its RAM faster than QEMU compresses with zlib: without patience it would never stop.
      const answered = passage.withoutReturnPath !== true;
      const capabilities = { "return-path": answered };
      await first.setMigration({ ...passage.source, downtimeLimitMs: 10_000, capabilities });
      await first.migrateTo(formatAddress(relays[0]!.address));

      const results = await Promise.all(relays.map(({ result }) => result));
      assert.ok(results.every(({ acknowledged }) => acknowledged === answered));
      assert.equal((await first.waitMigration()).status, "completed");
      const left = checkBootGuest(path("first"), sixteenMegabytes);
      await waitForSweep(path("second"), left.sweep + 1);
      await waitForProgress(path("second"));
      await second.execute("stop");
      assert.ok(checkBootGuest(path("second"), sixteenMegabytes).sweep > left.sweep);
    });
  }
});

/** Where a VM that was told to listen does: QEMU answers with the tcp port that it chose. */
async function addressOf(vm: QemuProcess, unix: string): Promise<string> {
  const info = (await vm.execute("query-migrate")) as {
    "socket-address"?: { type: string; host: string; port: string }[];
  };
  const tcp = info["socket-address"]?.find(({ type }) => type === "inet");
  return tcp === undefined ? unix : `tcp:${tcp.host}:${tcp.port}`;
}
