/**
 * Contract table: what a report says of the performance contract, as Markdown.
 *
 * The tables of documents come from here, so that no figure in them is copied by hand:
 *
 *   node bench/dist/contract-table.js bench-report/report.json
 */
import { readFileSync } from "node:fs";
import { baseCases, describeSettings } from "./report/speed-section.js";
import type { CaseReport, Report } from "./report.js";
import type { Summary } from "./summary.js";

const MIB = 2 ** 20;

function markdown(report: Report): string {
  const { machine, qemu, rounds } = report;
  const bases = baseCases(report.cases);
  const first = bases[0];
  if (!first) throw new Error("the report has no case");
  return [
    `${describeSettings(first)}; medians of ${rounds} rounds on ${machine.cores} × ${machine.cpu}, Linux ${machine.kernel}, Node ${machine.node}${qemu ? `, ${qemu}` : ""}:`,
    "",
    "| method | variant | wall | MB/s | CPU, both ends | wire | beside RAM | speed against QEMU |",
    "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ...bases.flatMap(({ method, variants }) => variants.map((each, index) => row(index === 0 ? method : "", each))),
    "",
    "| method | promise | came | |",
    "| --- | --- | --- | --- |",
    ...bases.flatMap(promises),
    "",
  ].join("\n");
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
