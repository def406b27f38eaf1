/**
 * Table: a method's summary as text for a terminal.
 */
import type { Verdict } from "./contract.js";
import type { MethodSummary, Summary } from "./summary.js";

const MIB = 2 ** 20;

type Column = { readonly title: string; readonly cell: (summary: Summary) => string };

const columns: readonly Column[] = [
  { title: "", cell: ({ variant }) => variant },
  {
    title: "wall s (min–max)",
    cell: ({ wallMs }) => `${seconds(wallMs.median)} (${seconds(wallMs.min)}–${seconds(wallMs.max)})`,
  },
  { title: "MB/s", cell: ({ megabytesPerSecond }) => megabytesPerSecond.toFixed(0) },
  { title: "wire MB", cell: ({ wireBytes }) => (wireBytes / 1e6).toFixed(1) },
  {
    title: "CPU s",
    cell: ({ sourceCpuSeconds, destinationCpuSeconds }) =>
      `${sourceCpuSeconds.toFixed(2)} + ${destinationCpuSeconds.toFixed(2)}`,
  },
  {
    title: "MiB beside RAM",
    cell: ({ sourcePeakAnonBytes, destinationPeakAnonBytes }) =>
      `${(sourcePeakAnonBytes / MIB).toFixed(0)} + ${(destinationPeakAnonBytes / MIB).toFixed(0)}`,
  },
  { title: "× QEMU", cell: ({ toQemu }) => ratio(toQemu?.speed) },
  { title: "its CPU", cell: ({ toQemu }) => ratio(toQemu?.cpu) },
  { title: "its wire", cell: ({ toQemu }) => (toQemu ? toQemu.wire.toFixed(3) : "") },
  { title: "× ceiling", cell: ({ speedToCeiling }) => ratio(speedToCeiling ?? undefined) },
];

/** Lines of the table, the title's included. */
export function formatTable({ method, variants }: MethodSummary): string {
  const rows = [columns.map(({ title }) => title), ...variants.map((row) => columns.map(({ cell }) => cell(row)))];
  const widths = columns.map((_, column) => Math.max(...rows.map((row) => row[column]!.length)));
  const lines = rows.map((row) =>
    row.map((text, column) => (column === 0 ? text.padEnd(widths[0]!) : text.padStart(widths[column]!))).join("  "),
  );
  return [`\n${method}`, ...lines].join("\n");
}

export function formatVerdicts(verdicts: readonly Verdict[]): string {
  return verdicts
    .map(({ promise, came, met }) => `  ${met ? "met   " : "MISSED"}  ${promise}; came ${came.toPrecision(4)}`)
    .join("\n");
}

function seconds(ms: number): string {
  return (ms / 1000).toFixed(2);
}

function ratio(value: number | undefined): string {
  return value === undefined ? "" : value.toFixed(2);
}
