/** The demo's summary, for people: what moved, how fast, and what the guest noticed. */
import type { MigrationResult } from "@multifd/engine";
import { ratePerSecond } from "../progress-line.js";
import { formatBytes, formatMs, formatRate } from "../quantities.js";

export type DemoResult = MigrationResult & {
  /** Guest RAM per second. */
  readonly bytesPerSecond: number;
  readonly destinationCpuSeconds: number;
  /** Compared byte for byte at both ends. */
  readonly verifiedPages: number;
};

export function describeDemo(result: DemoResult, rate: number): string {
  const pagesMoved = result.normalPages + result.zeroPages;
  const pageBytes = result.ramBytes / result.verifiedPages;
  const ratio = (100 * result.wireBytes) / (pagesMoved * pageBytes);
  const rows = [
    [
      "moved",
      `${formatBytes(result.ramBytes)} of RAM in ${formatMs(result.totalMs)}: ${formatRate(ratePerSecond(result))}`,
    ],
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
