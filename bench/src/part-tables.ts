/**
 * Part tables: the live and the coordinator's part as text for a terminal.
 */
import type { CoordinatorPoint, CoordinatorReport } from "./coordinator/coordinator-report.js";
import type { LivePoint, LiveReport } from "./live/live-report.js";
import type { Spread } from "./statistics.js";
import { type Column, formatTable } from "./table.js";

const MIB = 2 ** 20;
const GIB = 2 ** 30;

const liveColumns: readonly Column<LivePoint>[] = [
  { title: "", cell: ({ variant }) => variant },
  { title: "MB/s asked", cell: ({ askedRate }) => (askedRate / 1e6).toFixed(0) },
  { title: "written", cell: ({ reachedRate }) => (reachedRate / 1e6).toFixed(0) },
  {
    title: "downtime ms (min–max)",
    cell: ({ downtimeMs }) => (downtimeMs ? ranged(downtimeMs, 0) : "does not converge"),
  },
  { title: "total ms (min–max)", cell: ({ totalMs }) => (totalMs ? ranged(totalMs, 0) : "") },
  { title: "rounds", cell: ({ rounds }) => rounds?.toFixed(0) ?? "" },
];

export function formatLive(live: LiveReport): string {
  return `\n${describeLive(live)}\n${formatTable(liveColumns, live.points)}\n`;
}

export function describeLive(live: LiveReport): string {
  return (
    `a guest of ${live.ramBytes / MIB} MiB that writes ${live.workingSetBytes / MIB} MiB of it, ` +
    `${live.channels} channels, unix, ${live.maxBandwidth > 0 ? `${(live.maxBandwidth / 1e6).toFixed(0)} MB/s, ` : ""}downtime limit ${live.downtimeLimitMs} ms`
  );
}

type Row = { readonly point: CoordinatorPoint; readonly round: CoordinatorPoint["rounds"][number] };

const coordinatorColumns: readonly Column<Row>[] = [
  { title: "", cell: ({ point, round }) => `${point.ramBytes / GIB} GiB, ${round.density} dirty` },
  { title: "packets", cell: ({ round }) => `${round.packets}` },
  { title: "harvest ms", cell: ({ round }) => ranged(round.harvestMs, 2) },
  { title: "publish ms", cell: ({ round }) => ranged(round.publishMs, 1) },
  { title: "rounds/s", cell: ({ round }) => (1000 / (round.harvestMs.median + round.publishMs.median)).toPrecision(3) },
  { title: "memory MiB", cell: ({ point }) => (point.memoryBytes / MIB).toFixed(1) },
];

export function formatCoordinator({ points, harvests }: CoordinatorReport): string {
  const rows = points.flatMap((point) => point.rounds.map((round) => ({ point, round })));
  const guests = harvests.map(
    ({ ramBytes, everyPageMs, noPageMs }) =>
      `harvest of a guest of ${ramBytes / GIB} GiB: every page ${everyPageMs.toFixed(1)} ms, no page ${noPageMs.median.toFixed(2)} ms`,
  );
  return ["\nthe coordinator alone, without RAM", formatTable(coordinatorColumns, rows), ...guests, ""].join("\n");
}

function ranged({ median, min, max }: Spread, digits: number): string {
  return `${median.toFixed(digits)} (${min.toFixed(digits)}–${max.toFixed(digits)})`;
}
