/**
 * Speed section: what each codec's base case gave, and how it changes with one setting at a time.
 */
import type { CaseReport } from "../report.js";
import type { Summary } from "../summary.js";
import { type Bar, drawBars } from "./bar-chart.js";
import { colorOf } from "./colors.js";
import { figure, legend, section } from "./html.js";
import { drawLines, type LineChart, type Series } from "./line-chart.js";

const GIB = 2 ** 30;

/** The settings that are varied, each alone. */
type Setting = "channels" | "transport" | "image" | "ramBytes";
const settings: readonly Setting[] = ["channels", "transport", "image", "ramBytes"];

/** The first case of each codec: the one that others differ from in one setting. */
export function baseCases(cases: readonly CaseReport[]): readonly CaseReport[] {
  return cases.filter((each, index) => cases.findIndex(({ method }) => method === each.method) === index);
}

/** The base case and those that differ from it in that setting only. */
function variedCases(cases: readonly CaseReport[], base: CaseReport, varied: Setting): readonly CaseReport[] {
  return cases.filter(
    (each) =>
      each.method === base.method && settings.every((setting) => setting === varied || each[setting] === base[setting]),
  );
}

export function describeSettings({ ramBytes, image, channels, transport }: CaseReport): string {
  return `${formatSize(ramBytes)}, ${image} image, ${channels} ${channels === 1 ? "channel" : "channels"}, ${transport}`;
}

export function formatSize(bytes: number): string {
  if (bytes >= 1024 * GIB) return `${+(bytes / GIB / 1024).toFixed(2)} TiB`;
  return bytes >= GIB ? `${+(bytes / GIB).toFixed(2)} GiB` : `${bytes / 2 ** 20} MiB`;
}

/** Sections in the order in which they are read; without cases, none. */
export function speedSections(cases: readonly CaseReport[], rounds: number): readonly string[] {
  const bases = baseCases(cases);
  if (bases.length === 0) return [];
  const common = describeSettings(bases[0]!);
  return [
    section(
      "Throughput",
      `Guest RAM moved per second, zero pages included: ${common}. ${rounds === 1 ? "One round" : `Bars are medians of ${rounds} rounds, whiskers the slowest and the fastest`}.`,
      ...bases.map((each) => figure("chart", `Compression ${each.method}`, drawBars(throughputBars(each)))),
    ),
    section(
      "CPU time",
      "Seconds of CPU per GiB of guest RAM, user and system, all threads: the source's first, the destination's behind it, paler.",
      ...bases.map((each) => figure("chart", `Compression ${each.method}`, drawBars(cpuBars(each)))),
    ),
    ...lineSections(cases, bases),
    ...imageSection(cases, bases),
  ];
}

function throughputBars({ method, variants }: CaseReport) {
  return {
    summary: `Throughput with ${method}: ${variants.map((each) => `${each.variant} ${megabytes(each)}`).join(", ")}`,
    unit: "MB of guest RAM per second",
    format: (value: number) => value.toFixed(0),
    bars: variants.map(throughputBar),
  };
}

function throughputBar(each: Summary): Bar {
  const { megabytesPerSecond: speed, toQemu } = each;
  return {
    name: each.variant,
    color: colorOf(each.variant, each.role),
    parts: [{ value: speed.median, tone: "whole" }],
    range: speed,
    note: `${speed.median.toFixed(0)}${toQemu ? `  ${toQemu.speed.toFixed(2)}×` : ""}`,
    tip: `${each.variant}: ${megabytes(each)}, ${speed.min.toFixed(0)} to ${speed.max.toFixed(0)}${toQemu ? `; ${toQemu.speed.toFixed(2)} times QEMU's speed` : ""}`,
  };
}

const megabytes = ({ megabytesPerSecond }: Summary) => `${megabytesPerSecond.median.toFixed(0)} MB/s`;

function cpuBars({ method, variants, ramBytes }: CaseReport) {
  const perGib = (seconds: number) => (seconds * GIB) / ramBytes;
  return {
    summary: `CPU seconds per GiB with ${method}`,
    unit: "CPU seconds per GiB",
    format: (value: number) => `${+value.toFixed(2)}`,
    bars: variants.map(({ variant, role, sourceCpuSeconds, destinationCpuSeconds, toQemu }): Bar => {
      const [source, destination] = [perGib(sourceCpuSeconds), perGib(destinationCpuSeconds)];
      return {
        name: variant,
        color: colorOf(variant, role),
        parts: [
          { value: source, tone: "whole" },
          { value: destination, tone: "pale" },
        ],
        range: null,
        note: `${(source + destination).toFixed(2)}${toQemu ? `  ${toQemu.cpu.toFixed(2)}×` : ""}`,
        tip: `${variant}: source ${source.toFixed(2)}, destination ${destination.toFixed(2)} CPU seconds per GiB`,
      };
    }),
  };
}

/** What is drawn as lines where there are two values of it or more. */
const lineKinds = [
  {
    setting: "ramBytes",
    title: "Cost against size",
    lead: "Seconds from the command to the last acknowledgement. What grows in a straight line through the origin costs the same per GiB at any size.",
    xTitle: "GiB of guest RAM",
    x: ({ ramBytes }: CaseReport) => ramBytes / GIB,
    yTitle: "seconds",
    y: ({ wallMs }: Summary) => ({ y: wallMs.median / 1000, min: wallMs.min / 1000, max: wallMs.max / 1000 }),
  },
  {
    setting: "channels",
    title: "Channels",
    lead: "Guest RAM per second against the number of packet channels. More than the machine has cores for is of no use, and should do no harm.",
    xTitle: "channels",
    x: ({ channels }: CaseReport) => channels,
    yTitle: "MB/s",
    y: ({ megabytesPerSecond: { median, min, max } }: Summary) => ({ y: median, min, max }),
  },
] as const;

function lineSections(cases: readonly CaseReport[], bases: readonly CaseReport[]): readonly string[] {
  return lineKinds.flatMap(({ setting, title, lead, ...axes }) => {
    const figures = bases.flatMap((base) => {
      const varied = variedCases(cases, base, setting).toSorted((a, b) => a[setting] - b[setting]);
      if (varied.length < 2) return [];
      const chart: LineChart = {
        summary: `${title} with ${base.method}`,
        x: { title: axes.xTitle, format: (value) => `${+value.toFixed(2)}`, scale: "linear" },
        y: { title: axes.yTitle, format: (value) => `${+value.toFixed(2)}`, scale: "linear" },
        series: linesOf(varied, axes.x, axes.y),
        level: null,
      };
      return [figure("chart", `Compression ${base.method}`, legend(chart.series), drawLines(chart))];
    });
    return figures.length === 0 ? [] : [section(title, lead, ...figures)];
  });
}

type Ranged = { readonly y: number; readonly min: number; readonly max: number };

function linesOf(
  cases: readonly CaseReport[],
  x: (each: CaseReport) => number,
  y: (summary: Summary) => Ranged,
): readonly Series[] {
  return cases[0]!.variants.map(({ variant, role }): Series => {
    const points = cases.flatMap((each) => {
      const summary = each.variants.find((other) => other.variant === variant);
      if (!summary) return [];
      const { y: value, min, max } = y(summary);
      const said = `${variant}, ${describeSettings(each)}: ${(summary.wallMs.median / 1000).toFixed(2)} s, ${megabytes(summary)}`;
      return [{ x: x(each), y: value, range: { min, max }, tip: said }];
    });
    return { name: variant, color: colorOf(variant, role), points, end: null };
  });
}

/** Other images and the other transport, as bars. */
function imageSection(cases: readonly CaseReport[], bases: readonly CaseReport[]): readonly string[] {
  const others = bases.flatMap((base) =>
    [...variedCases(cases, base, "image"), ...variedCases(cases, base, "transport")].filter((each) => each !== base),
  );
  if (others.length === 0) return [];
  return [
    section(
      "Other images, other sockets",
      "The same figure where RAM holds something else, or where the channels are of another kind.",
      ...others.map((each) =>
        figure("chart", `${each.method}: ${each.image} image, ${each.transport}`, drawBars(throughputBars(each))),
      ),
    ),
  ];
}
