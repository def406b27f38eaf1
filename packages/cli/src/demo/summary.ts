/** The demo's summary, for people: what moved, how fast, and what the guest noticed. */
import type { MigrationResult } from "@multifd/engine";
import { formatBytes, formatMs, formatRate } from "../quantities.js";

export type DemoResult = MigrationResult & {
  /** Guest RAM per second, pages counted each time they crossed. */
  readonly bytesPerSecond: number;
  readonly destinationCpuSeconds: number;
  /** Compared byte for byte at both ends. */
  readonly verifiedPages: number;
};

/** Guest RAM that the pages sent stand for. */
export function crossedBytes(result: MigrationResult, pageBytes: number): number {
  return (result.normalPages + result.zeroPages) * pageBytes;
}

export function describeDemo(result: DemoResult, rate: number): string {
  const crossed = crossedBytes(result, result.ramBytes / result.verifiedPages);
  const ratio = (100 * result.wireBytes) / crossed;
  const rows = [
    ["moved", `${formatBytes(result.ramBytes)} of RAM in ${formatMs(result.totalMs)}`],
    ["speed", `${formatRate(result.bytesPerSecond)}; ${formatBytes(crossed)} with what was sent again`],
    ["rounds", `${result.rounds}, while the guest dirtied ${rate === 0 ? "nothing" : formatRate(rate)}`],
    ["pages", `${result.normalPages} normal, ${result.zeroPages} zero`],
    ["wire", `${formatBytes(result.wireBytes)}, ${ratio.toFixed(0)} % of the pages it stands for`],
    [
      "downtime",
      result.downtimeMs === null ? "not measured" : `${formatMs(result.downtimeMs)}, as the guest measured it`,
    ],
    ["CPU", `source ${result.cpuSeconds.toFixed(2)} s, destination ${result.destinationCpuSeconds.toFixed(2)} s`],
    ["verified", `all ${result.verifiedPages} pages the same, none stale; the guest runs on at the destination`],
  ];
  return rows.map(([name, text]) => `${name!.padEnd(10)}${text}\n`).join("");
}
