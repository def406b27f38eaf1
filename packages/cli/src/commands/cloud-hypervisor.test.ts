import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type Address, formatAddress } from "@multifd/channel";
import type { MigrationEvent } from "@multifd/engine";
import { type CloudHypervisorSourceJob, runCloudHypervisorSource } from "@multifd/peer-cloud-hypervisor";
import { ERAS } from "@multifd/protocol";
import { liveSource } from "../cloud-hypervisor/guest-process.js";
import { GuestProcess } from "../demo/guest-process.js";
import { verifyMigration } from "../demo/verify.js";
import { LiveGuest } from "../live-guest.js";
import { runCommandLine } from "../program.js";
import { recordingTerminal } from "../recording-terminal.js";

const RAM_BYTES = 32 * 2 ** 20;

describe("multifd cloud-hypervisor", () => {
  let directory = "";
  const guests: GuestProcess[] = [];
  beforeEach(() => {
    directory = mkdtempSync(join(tmpdir(), "multifd-ch-"));
  });
  afterEach(async () => {
    for (const guest of guests.splice(0)) await guest.end();
    rmSync(directory, { recursive: true });
  });

  const at = (name: string): Address => ({ kind: "unix", path: join(directory, name) });

  async function startGuest(name: string, incoming: boolean): Promise<GuestProcess> {
    const socketPath = join(directory, name);
    const guest = await GuestProcess.start({ socketPath, ramBytes: RAM_BYTES, rate: 20e6, incoming });
    guests.push(guest);
    return guest;
  }

  /** Runs a command in this process; resolves when it listens. */
  async function start(...words: readonly string[]): Promise<{ readonly ended: Promise<MigrationEvent> }> {
    const terminal = recordingTerminal();
    const ended = runCommandLine(["cloud-hypervisor", ...words, "--json"], terminal).then(
      () => JSON.parse(terminal.outText().trim().split("\n").at(-1)!) as MigrationEvent,
    );
    for (;;) {
      if (terminal.outText().includes('"listening"')) return { ended };
      await new Promise(setImmediate);
    }
  }

  function send(guest: LiveGuest, more: Pick<CloudHypervisorSourceJob, "address"> & Partial<CloudHypervisorSourceJob>) {
    return runCloudHypervisorSource({
      source: liveSource(guest),
      era: ERAS.v53,
      memory: "stream",
      channels: 1,
      handOver: "resume",
      connectTimeoutMs: 5000,
      stallTimeoutMs: 30_000,
      downtimeLimitMs: 300,
      roundsMax: 30,
      atRoundLimit: "switchover",
      maxBandwidth: 0,
      onEvent: () => {},
      ...more,
    });
  }

  it("moves a live guest by the descriptors of its RAM, and it runs on, whole, and tells its downtime", async () => {
    const incoming = await startGuest("incoming", true);
    const guest = await startGuest("guest", false);
    const end = at("end.sock");
    const receiver = await start("receive", "--guest", formatAddress(incoming.address), "--listen", formatAddress(end));
    const source = await LiveGuest.open(guest.address);
    try {
      await send(source, { address: end, memory: "descriptors" });
      const received = await receiver.ended;
      assert.ok(received.event === "completed" && received.downtimeMs !== null, JSON.stringify(received));
      assert.equal((await verifyMigration(source, incoming, true)).pages, RAM_BYTES / 4096);
    } finally {
      source.close();
    }
  });

  it("moves a live guest through two relays with multifd packets between them, and it runs on, whole", async () => {
    const incoming = await startGuest("incoming", true);
    const guest = await startGuest("guest", false);
    const link = ["--compression", "zstd", "--channels", "2"];
    const [a, b, end] = [at("a.sock"), at("b.sock"), at("end.sock")].map((address) => formatAddress(address));
    const others = [
      await start("receive", "--guest", formatAddress(incoming.address), "--listen", end!),
      await start("relay", "--listen", b!, "--listen-protocol", "multifd", "--to", end!, ...link),
      await start("relay", "--listen", a!, "--to", b!, "--to-protocol", "multifd", ...link),
    ];
    const source = await LiveGuest.open(guest.address);
    try {
      const sent = await send(source, { address: at("a.sock") });
      assert.ok(sent.rounds > 1, "it was never written while it moved");
      for (const { ended } of others) assert.equal((await ended).event, "completed");
      assert.equal((await verifyMigration(source, incoming, true)).pages, RAM_BYTES / 4096);
    } finally {
      source.close();
    }
  });
});
