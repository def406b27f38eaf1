/**
 * Coordinator section: what planning costs, up to a tebibyte that is not there.
 */
import type { CoordinatorReport, Density } from "../coordinator/coordinator-report.js";
import { figure, legend, section, table } from "./html.js";
import { drawLines, type Series } from "./line-chart.js";
import { formatSize } from "./speed-section.js";

const GIB = 2 ** 30;
const MIB = 2 ** 20;

const densities: readonly { readonly density: Density; readonly color: string }[] = [
  { density: "every page", color: "c-ours" },
  { density: "1 page in 100", color: "c-from-qemu" },
  { density: "no page", color: "c-qemu" },
];

export function coordinatorSections(report: CoordinatorReport): readonly string[] {
  const { points, harvests } = report;
  const largest = points.at(-1);
  const x = { title: "GiB of guest RAM", format: (value: number) => `${value}`, scale: "log2" as const };
  const cost = densities.map(
    ({ density, color }): Series => ({
      name: `${density} dirty`,
      color,
      points: points.flatMap(({ ramBytes, rounds }) =>
        rounds
          .filter((round) => round.density === density)
          .map(({ harvestMs, publishMs, packets }) => {
            const ms = harvestMs.median + publishMs.median;
            const said = `${formatSize(ramBytes)}, ${density} dirty: harvest ${harvestMs.median.toFixed(2)} ms, publish ${publishMs.median.toFixed(1)} ms, ${packets} packets`;
            return { x: ramBytes / GIB, y: ms, range: null, tip: said };
          }),
      ),
      end: null,
    }),
  );
  const memory: Series = {
    name: "memory of the coordinator",
    color: "c-ours",
    points: points.map(({ ramBytes, memoryBytes }) => ({
      x: ramBytes / GIB,
      y: memoryBytes / MIB,
      range: null,
      tip: `${formatSize(ramBytes)}: ${(memoryBytes / MIB).toFixed(1)} MiB`,
    })),
    end: null,
  };
  const y = (title: string, scale: "linear" | "log10") => ({ title, format: (value: number) => `${value}`, scale });
  return [
    section(
      "The coordinator alone",
      `Rounds planned over RAM that is not there, up to ${largest ? formatSize(largest.ramBytes) : "nothing"}: the dirty bitmap is harvested, split into packets and published, and a thread drops what it claims.`,
      figure(
        "chart",
        "Time to plan a round",
        legend(cost),
        drawLines({
          summary: "Planning time against size",
          x,
          y: y("ms per round", "log10"),
          series: cost,
          level: null,
        }),
      ),
      figure(
        "chart",
        "Memory",
        legend([memory]),
        // Linear both ways: a straight line is what is claimed.
        drawLines({
          summary: "Memory against size",
          x: { ...x, scale: "linear" },
          y: y("MiB", "linear"),
          series: [memory],
          level: null,
        }),
      ),
      ...(harvests.length === 0
        ? []
        : [
            figure(
              "chart",
              "Harvesting a real guest with PAGEMAP_SCAN",
              table(
                ["guest RAM", "every page written, ms", "no page written, ms"],
                harvests.map(({ ramBytes, everyPageMs, noPageMs }) => [
                  formatSize(ramBytes),
                  everyPageMs.toFixed(1),
                  noPageMs.median.toFixed(2),
                ]),
              ),
            ),
          ]),
    ),
  ];
}
