/**
 * `multifd qemu migrate` with a fault at any step: the guest runs on exactly one side, with intact RAM.
 *
 * Each run draws who is hit (our two processes, both QEMUs, the link), how (killed or cut, or stopped for a while), and
 * when (behind an event of the source's, after some milliseconds). MULTIFD_LIVE_FAULTS says how many runs,
 * MULTIFD_LIVE_SEED with which draw the first one begins; a failure names its own.
 */
import assert from "node:assert/strict";
import { setTimeout as after } from "node:timers/promises";
import { type CommandOutcome, type MultifdProcess, type QemuVersion, waitForSweep } from "../peers/index.js";
import { Link } from "./link.js";
import { type LiveVm, LiveVms } from "./live-vms.js";

const RUNS = Number(process.env["MULTIFD_LIVE_FAULTS"] ?? 12);
const SEED = Number(process.env["MULTIFD_LIVE_SEED"] ?? 1);
const STOPPED_MS = 2500;

const VICTIMS = ["source", "destination", "source QEMU", "destination QEMU", "link"] as const;
const WAYS = ["killed", "stopped"] as const;
const MOMENTS = ["connected", "round 1", "round 2", "switchover", "the last round"] as const;
const DELAYS_MS = [0, 5, 15, 40, 80, 150] as const;
const VERSIONS: readonly (readonly [QemuVersion, QemuVersion])[] = [
  ["7.2", "7.2"],
  ["11.1", "11.1"],
  ["7.2", "11.1"],
];

type Fault = {
  readonly victim: (typeof VICTIMS)[number];
  readonly way: (typeof WAYS)[number];
  readonly moment: (typeof MOMENTS)[number];
  readonly delayMs: number;
  readonly versions: (typeof VERSIONS)[number];
};

/** Ten draws in a row cover every victim and way; what they are combined with is as good as random. */
function draw(seed: number): Fault {
  const mixed = Math.imul(seed, 0x9e3779b1) >>> 0;
  const pick = <T>(from: readonly T[], by: number): T => from[by % from.length]!;
  return {
    victim: pick(VICTIMS, seed),
    way: pick(WAYS, Math.floor(seed / VICTIMS.length)),
    moment: pick(MOMENTS, mixed >>> 8),
    delayMs: pick(DELAYS_MS, mixed >>> 16),
    versions: pick(VERSIONS, mixed >>> 24),
  };
}

describe("a live guest of an unmodified QEMU, with a fault on its way", () => {
  let vms: LiveVms;
  let link: Link;
  beforeEach(() => {
    vms = new LiveVms();
  });
  afterEach(async () => {
    link.cut();
    await vms.close();
  });

  for (let seed = SEED; seed < SEED + RUNS; seed++) {
    const fault = draw(seed);
    const { victim, way, moment, delayMs, versions } = fault;
    const title = `${seed}: the ${victim} is ${way}, ${delayMs} ms behind ${moment}, ${versions.join(" to ")}`;
    it(`runs on exactly one side, ${title}`, async () => {
      const first = await vms.start(versions[0]);
      const second = await vms.start(versions[1]);
      await waitForSweep(first.ram, 1);
      link = await Link.open(vms.path("link"), vms.path("behind"));
      const flags = ["--channels", "2", "--stall-timeout", "6000"];
      const receiving = await vms.incoming(second, flags, vms.path("behind"));
      // A link of this rate makes a round last long enough to be hit.
      const slow = ["--max-bandwidth", "64M", "--downtime-limit", "400"];
      const sending = vms.migrate(first, [...flags, ...slow]);
      try {
        await inject(fault, sending, { first, second, receiving, sending, link });
        const [sent, received] = await Promise.all([sending.outcome, receiving.outcome]);
        await judge(fault, first, second, sent, received);
      } finally {
        sending.signal("SIGKILL");
        receiving.signal("SIGKILL");
      }
    }).timeout(120_000);
  }

  type Parties = {
    readonly first: LiveVm;
    readonly second: LiveVm;
    readonly sending: MultifdProcess;
    readonly receiving: MultifdProcess;
    readonly link: Link;
  };

  async function inject(fault: Fault, source: MultifdProcess, parties: Parties): Promise<void> {
    try {
      await source.waitFor(isMoment(fault.moment));
    } catch {
      return; // it came through without that many rounds: then nothing is hit, and all has to be well
    }
    await after(fault.delayMs);
    if (fault.victim === "link") {
      if (fault.way === "killed") return parties.link.cut();
      parties.link.hold();
      await after(STOPPED_MS);
      return parties.link.release();
    }
    const pid = {
      source: parties.sending.pid,
      destination: parties.receiving.pid,
      "source QEMU": parties.first.qemu.pid,
      "destination QEMU": parties.second.qemu.pid,
    }[fault.victim];
    if (fault.way === "killed") return signal(pid, "SIGKILL");
    signal(pid, "SIGSTOP");
    await after(STOPPED_MS);
    signal(pid, "SIGCONT");
  }

  async function judge(
    { victim, way }: Fault,
    first: LiveVm,
    second: LiveVm,
    sent: CommandOutcome,
    received: CommandOutcome,
  ): Promise<void> {
    const told = `source: ${JSON.stringify(sent.last)} ${sent.stderr}; destination: ${JSON.stringify(received.last)} ${received.stderr}`;
    const runs = await Promise.all([first, second].map(isRunning));
    const where = `it runs at ${runs[0] ? "the source" : ""} ${runs[1] ? "the destination" : ""}; ${told}`;
    assert.ok(!(runs[0] && runs[1]), where);
    const here = runs[0] ? first : runs[1] ? second : null;
    if (here !== null) {
      const left = { ...(await waitForSweep(here.ram, 1)) };
      return await vms.assertGoesOn(here, left);
    }
    // A guest dies with its own QEMU. And nobody can know whose it is when the last word is lost: then it stands still.
    if (way === "killed" && victim === "source QEMU") return;
    if (way === "killed" && victim === "destination QEMU" && sent.last.event === "completed") return;
    assert.equal(sent.last.code, "ACKNOWLEDGEMENT_LOST", where);
    const left = vms.check(first);
    await first.qemu.execute("cont");
    await vms.assertGoesOn(first, left);
  }
});

function isMoment(moment: Fault["moment"]): (event: { readonly event: string; readonly round?: number }) => boolean {
  let last: number | undefined;
  return ({ event, round }) => {
    if (event === "switchover") last = round;
    switch (moment) {
      case "connected":
      case "switchover":
        return event === moment;
      case "round 1":
      case "round 2":
        return event === "round" && moment === `round ${round}`;
      case "the last round":
        return event === "round" && last !== undefined && round === last;
    }
  };
}

/** A QEMU that is gone runs nothing. A guest that has just been told to go on may take a moment. */
async function isRunning({ qemu }: LiveVm): Promise<boolean> {
  for (let look = 0; look < 20; look++) {
    const state = await qemu.runState().catch(() => "gone");
    if (state === "running" || state === "gone") return state === "running";
    await after(50);
  }
  return false;
}

function signal(pid: number, name: NodeJS.Signals): void {
  try {
    process.kill(pid, name);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ESRCH") throw error; // it has ended by itself
  }
}
