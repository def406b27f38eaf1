/**
 * Contract table: what a report says of the performance contract, as Markdown.
 *
 * The tables of documents come from here, so that no figure in them is copied by hand:
 *
 *   node bench/dist/contract-table.js bench-report/report.json
 */
import { readFileSync } from "node:fs";
import type { LivePoint, LiveReport } from "./live/live-report.js";
import { describeLive } from "./part-tables.js";
import { baseCases, describeSettings } from "./report/speed-section.js";
import type { CaseReport, Report } from "./report.js";
import type { Summary } from "./summary.js";
import type { Role } from "./variants.js";

const MIB = 2 ** 20;

function markdown(report: Report): string {
  const lines = [...speedTables(report), ...(report.live === null ? [] : liveTable(report.live))];
  if (lines.length === 0) throw new Error("the report has neither a case nor a live guest");
  return `${[describeMachine(report), "", ...lines].join("\n")}\n`;
}

function describeMachine({ machine, qemu, rounds }: Report): string {
  return `Medians of ${rounds} rounds on ${machine.cores} × ${machine.cpu}, Linux ${machine.kernel}, Node ${machine.node}${qemu ? `, ${qemu}` : ""}.`;
}

function speedTables({ cases }: Report): readonly string[] {
  const bases = baseCases(cases);
  const first = bases[0];
  if (!first) return [];
  return [
    `${describeSettings(first)}:`,
    "",
    "| method | variant | wall | MB/s | CPU, both ends | wire | beside RAM | speed against QEMU |",
    "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ...bases.flatMap(({ method, variants }) => variants.map((each, index) => row(index === 0 ? method : "", each))),
    "",
    "| method | promise | came | |",
    "| --- | --- | --- | --- |",
    ...bases.flatMap(promises),
    "",
  ];
}

/** Ours beside QEMU's, rate by rate. */
function liveTable(live: LiveReport): readonly string[] {
  const at = (role: Role, rate: number) =>
    live.points.find((point) => point.role === role && point.askedRate === rate) ?? null;
  const rates = [...new Set(live.points.map(({ askedRate }) => askedRate))];
  return [
    `${describeLive(live)}:`,
    "",
    "| guest writes | downtime, QEMU | downtime, multifd | against QEMU's | total, QEMU | total, multifd |",
    "| --- | --- | --- | --- | --- | --- |",
    ...rates.map((rate) => {
      const [qemu, ours] = [at("qemu", rate), at("ours", rate)];
      const both = qemu?.downtimeMs && ours?.downtimeMs;
      const cells = [
        `${(rate / 1e6).toFixed(0)} MB/s`,
        downtimeCell(qemu),
        downtimeCell(ours),
        both ? `${(ours.downtimeMs.median / qemu.downtimeMs.median).toFixed(2)} ×` : "",
        totalCell(qemu),
        totalCell(ours),
      ];
      return `| ${cells.join(" | ")} |`;
    }),
    "",
  ];
}

function downtimeCell(point: LivePoint | null): string {
  if (point === null) return "";
  return point.downtimeMs === null ? "does not converge" : `${point.downtimeMs.median.toFixed(0)} ms`;
}

function totalCell(point: LivePoint | null): string {
  return point?.totalMs ? `${(point.totalMs.median / 1000).toFixed(2)} s` : "";
}

function row(method: string, each: Summary): string {
  const cells = [
    method,
    each.variant,
    `${(each.wallMs.median / 1000).toFixed(2)} s`,
    each.megabytesPerSecond.median.toFixed(0),
    `${each.sourceCpuSeconds.toFixed(2)} + ${each.destinationCpuSeconds.toFixed(2)} s`,
    `${(each.wireBytes / 1e6).toFixed(0)} MB`,
    `${(each.sourcePeakAnonBytes / MIB).toFixed(0)} + ${(each.destinationPeakAnonBytes / MIB).toFixed(0)} MiB`,
    each.toQemu ? `${each.toQemu.speed.toFixed(2)} ×` : "",
  ];
  return `| ${cells.join(" | ")} |`;
}

function promises({ method, verdicts }: CaseReport): readonly string[] {
  return verdicts.map(({ promise, came, met }, index) => {
    const cells = [index === 0 ? method : "", promise, came.toPrecision(3), met ? "met" : "missed"];
    return `| ${cells.join(" | ")} |`;
  });
}

const path = process.argv[2];
if (path === undefined) {
  process.stderr.write("contract-table: name a report.json\n");
  process.exitCode = 2;
} else {
  process.stdout.write(markdown(JSON.parse(readFileSync(path, "utf8")) as Report));
}
