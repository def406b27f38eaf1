/**
 * Table: figures as text for a terminal.
 */
import type { Verdict } from "./contract.js";
import type { Summary } from "./summary.js";

const MIB = 2 ** 20;

/** A row's cell by the column's title. */
export type Column<Row> = { readonly title: string; readonly cell: (row: Row) => string };

const columns: readonly Column<Summary>[] = [
  { title: "", cell: ({ variant }) => variant },
  {
    title: "wall s (min–max)",
    cell: ({ wallMs }) => `${seconds(wallMs.median)} (${seconds(wallMs.min)}–${seconds(wallMs.max)})`,
  },
  { title: "MB/s", cell: ({ megabytesPerSecond }) => megabytesPerSecond.median.toFixed(0) },
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

/** A case's table, title and verdicts included. */
export function formatCase(title: string, summaries: readonly Summary[], verdicts: readonly Verdict[]): string {
  const judged = verdicts.map(
    ({ promise, came, met }) => `  ${met ? "met   " : "MISSED"}  ${promise}; came ${came.toPrecision(4)}`,
  );
  return [`\n${title}`, formatTable(columns, summaries), ...judged, ""].join("\n");
}

/** The first column to the left, the others to the right. */
export function formatTable<Row>(columns: readonly Column<Row>[], rows: readonly Row[]): string {
  const cells = [columns.map(({ title }) => title), ...rows.map((row) => columns.map(({ cell }) => cell(row)))];
  const widths = columns.map((_, column) => Math.max(...cells.map((row) => row[column]!.length)));
  return cells
    .map((row) => row.map((text, at) => (at === 0 ? text.padEnd(widths[0]!) : text.padStart(widths[at]!))).join("  "))
    .join("\n");
}

function seconds(ms: number): string {
  return (ms / 1000).toFixed(2);
}

function ratio(value: number | undefined): string {
  return value === undefined ? "" : value.toFixed(2);
}
