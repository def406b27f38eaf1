/**
 * Live section: downtime and total time of a guest that writes, and how one migration went.
 */
import type { LivePoint, LiveReport } from "../live/live-report.js";
import type { Spread } from "../statistics.js";
import { colorOf } from "./colors.js";
import { figure, legend, section } from "./html.js";
import { drawLines, type LineChart, type LinePoint, type Series } from "./line-chart.js";
import { drawTimeline } from "./timeline-chart.js";

const MIB = 2 ** 20;

export function liveSections(live: LiveReport): readonly string[] {
  const { timeline } = live;
  const guest = `a guest of ${live.ramBytes / MIB} MiB that writes over and over ${live.workingSetBytes / MIB} MiB of it`;
  return [
    section(
      "Live migration against dirty rate",
      `How ${guest} fares, ${live.channels} channels, unix sockets, no compression, ${live.maxBandwidth > 0 ? `the wire held to ${formatRate(live.maxBandwidth)} until the guest is paused, ` : ""}a downtime limit of ${live.downtimeLimitMs} ms; ${live.runs === 1 ? "one migration each" : `medians of ${live.runs}`}. ` +
        `A cross marks the rate at which a migration did not converge within ${live.limitMs / 1000} s; a line that ends without one belongs to a guest that could not write faster.`,
      lineFigure(live, "Downtime", "ms without a running vCPU", ({ downtimeMs }) => downtimeMs, {
        y: live.downtimeLimitMs,
        name: "limit",
      }),
      lineFigure(live, "Total time", "ms from the command to the end", ({ totalMs }) => totalMs, null),
    ),
    section(
      "One migration as it went",
      `multifd → multifd, ${guest}, ${formatRate(timeline.askedRate)}${timeline.maxBandwidth > 0 ? `, the wire held to ${formatRate(timeline.maxBandwidth)} so that its rounds can be seen` : ""}. ` +
        "Each bar is a round: as wide as it took, as high as RAM was dirty when it began. The line is what the wire has carried.",
      figure(
        "chart wide",
        `${timeline.rounds.length} rounds in ${(timeline.completedMs / 1000).toFixed(2)} s`,
        drawTimeline(timeline, `Rounds of one live migration: ${timeline.rounds.length}`),
      ),
    ),
  ];
}

function formatRate(bytesPerSecond: number): string {
  return `${(bytesPerSecond / 1e6).toFixed(0)} MB/s`;
}

function lineFigure(
  live: LiveReport,
  title: string,
  unit: string,
  of: (point: LivePoint) => Spread | null,
  level: LineChart["level"],
): string {
  const variants = [...new Set(live.points.map(({ variant }) => variant))];
  const series = variants.map((variant): Series => {
    const points = live.points.filter((point) => point.variant === variant);
    const lost = points.find((point) => of(point) === null);
    return {
      name: variant,
      color: colorOf(variant, points[0]!.role),
      points: points.flatMap((point) => toLinePoint(point, of(point))),
      end: lost
        ? {
            x: lost.reachedRate / 1e6,
            tip: `${variant}: does not converge at ${formatRate(lost.askedRate)}; the guest wrote ${formatRate(lost.reachedRate)}`,
          }
        : null,
    };
  });
  const chart = {
    summary: `${title} against dirty rate`,
    x: { title: "MB of RAM dirtied per second", format: (value: number) => `${value}`, scale: "linear" as const },
    y: { title: unit, format: (value: number) => `${value}`, scale: "linear" as const },
    series,
    level,
  };
  return figure("chart", title, legend(series), drawLines(chart));
}

function toLinePoint(point: LivePoint, value: Spread | null): readonly LinePoint[] {
  if (value === null) return [];
  const said =
    `${point.variant} at ${formatRate(point.askedRate)}, ${formatRate(point.reachedRate)} written: ` +
    `${value.median.toFixed(0)} ms, ${value.min.toFixed(0)} to ${value.max.toFixed(0)}; ${point.rounds?.toFixed(0)} rounds`;
  return [{ x: point.reachedRate / 1e6, y: value.median, range: value, tip: said }];
}
