/**
 * Relay: takes a Cloud Hypervisor guest in at one end and sends it on at the other, while it still moves.
 *
 * Either end speaks Cloud Hypervisor's protocol or multifd packets, so two relays carry such a migration over a slow
 * link, compressed and on several channels, between two Cloud Hypervisors that know nothing of it.
 * RAM is held in memory, as far as the guest has used it.
 *
 *   inlet ── Config, State, handover ──▶ outlet
 *     └── RAM ──▶ passing RAM ──▶──────────┘
 *
 * Each end is a migration of its own; the source is answered with the destination's word. The first of
 * the two to fail takes the other with it, and is what the relay fails with.
 */
import {
  type DestinationJob,
  type EventSink,
  type MigrationEvent,
  type MigrationResult,
  type RelayResult,
  runDestination,
  runSource,
  type SourceJob,
  tellOutcome,
} from "@multifd/engine";
import { MigrationError } from "@multifd/protocol";
import { runCloudHypervisorDestination } from "../destination.js";
import type { CloudHypervisorDestinationJob } from "../destination-job.js";
import { runCloudHypervisorSource } from "../source.js";
import type { CloudHypervisorSourceJob } from "../source-job.js";
import { CloudHypervisorInlet } from "./cloud-hypervisor-inlet.js";
import { passingJob } from "./cloud-hypervisor-source.js";
import { MultifdInlet } from "./multifd-inlet.js";
import { passingSource } from "./multifd-source.js";
import { RunningOutlet } from "./running-outlet.js";

type Own = "onEvent" | "signal";
type SourceEnd =
  | {
      readonly protocol: "cloud-hypervisor";
      readonly job: Omit<CloudHypervisorDestinationJob, Own | "guest" | "memory" | "lenientDescriptors">;
    }
  | { readonly protocol: "multifd"; readonly job: Omit<DestinationJob, Own | "guest"> };
/** Convergence is the first source's business. */
type Converging = "downtimeLimitMs" | "roundsMax" | "atRoundLimit" | "maxBandwidth";
type DestinationEnd =
  | {
      readonly protocol: "cloud-hypervisor";
      readonly job: Omit<CloudHypervisorSourceJob, Own | Converging | "source" | "memory" | "handOver">;
    }
  | { readonly protocol: "multifd"; readonly job: Omit<SourceJob, Own | Converging | "guest" | "devices"> };

export type CloudHypervisorRelayJob = {
  readonly from: SourceEnd;
  readonly to: DestinationEnd;
  readonly onEvent: EventSink;
  readonly signal?: AbortSignal;
};

const NOT_CONVERGING = { downtimeLimitMs: 0, roundsMax: 1, atRoundLimit: "switchover", maxBandwidth: 0 } as const;

/**
 * Passes one migration on. Everything it opened is closed when it settles.
 *
 * @throws {MigrationError} what ended it; the guest goes on at its source then. With code ACKNOWLEDGEMENT_LOST it may run
 *   at the destination, and the source has been told nothing.
 */
export function runCloudHypervisorRelay(job: CloudHypervisorRelayJob): Promise<RelayResult> {
  return tellOutcome(job.onEvent, () => relay(job));
}

async function relay({ from, to, onEvent, signal }: CloudHypervisorRelayJob): Promise<RelayResult> {
  const abort = new AbortController();
  const cancel = () => abort.abort();
  if (signal?.aborted) cancel();
  signal?.addEventListener("abort", cancel);
  let outletFailure: unknown = null;
  const outlet = new RunningOutlet({
    saysLoaded: to.protocol === "cloud-hypervisor",
    run: (steps) => {
      const own = { ...NOT_CONVERGING, onEvent: (event: MigrationEvent) => tellOutgoing(onEvent, event) };
      return to.protocol === "cloud-hypervisor"
        ? runCloudHypervisorSource({ ...to.job, ...own, ...passingJob(steps) })
        : runSource({ ...to.job, ...own, guest: passingSource(steps), devices: null, signal: steps.signal });
    },
    onFail: (error) => {
      outletFailure = error;
      abort.abort();
    },
  });
  const { inlet, run } = openInlet(from, outlet);
  const watch = {
    onEvent: (event: MigrationEvent) => {
      inlet.live();
      if (event.event === "listening" || event.event === "connected") onEvent(event);
    },
    signal: abort.signal,
  };
  try {
    const taken = await run(watch);
    return joinResults(taken, (await outlet.result)!);
  } catch (error) {
    // Our own cancelling of the one end says nothing; what the other failed with does.
    const isEcho = error instanceof MigrationError && error.code === "CANCELLED" && signal?.aborted !== true;
    throw isEcho && outletFailure !== null ? outletFailure : error;
  } finally {
    signal?.removeEventListener("abort", cancel);
    await outlet.cancel();
    inlet.close();
  }
}

type Watch = { readonly onEvent: EventSink; readonly signal: AbortSignal };

function openInlet(from: SourceEnd, outlet: RunningOutlet) {
  if (from.protocol === "multifd") {
    const guest = new MultifdInlet(outlet);
    return { inlet: guest, run: (watch: Watch) => runDestination({ ...from.job, ...watch, guest }) };
  }
  const guest = new CloudHypervisorInlet(outlet);
  const terms = { ...from.job, guest, memory: "stream", lenientDescriptors: false } as const;
  return { inlet: guest, run: (watch: Watch) => runCloudHypervisorDestination({ ...terms, ...watch }) };
}

/** Each end tells its own outcome; ours comes last and once. */
function tellOutgoing(onEvent: EventSink, event: MigrationEvent): void {
  if (event.event !== "completed" && event.event !== "failed") onEvent(event);
}

function joinResults(taken: MigrationResult, sent: MigrationResult): RelayResult {
  const { cpuSeconds, acknowledged, wireBytes } = taken;
  return { ...sent, wireBytesIn: wireBytes, cpuSeconds, acknowledged, downtimeMs: null };
}
