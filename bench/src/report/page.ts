/**
 * Page: the whole report as one HTML file that needs nothing beside it.
 *
 * No script and nothing fetched: drawings are inline, tips are SVG titles, and the
 * colours follow what the reader's system prefers.
 */
import type { Machine } from "../machine.js";
import type { CaseReport, Report } from "../report.js";
import { coordinatorSections } from "./coordinator-section.js";
import { type Cell, figure, section, table } from "./html.js";
import { liveSections } from "./live-section.js";
import { baseCases, describeSettings, formatSize, speedSections } from "./speed-section.js";
import { STYLE } from "./style.js";
import { element, escapeText } from "./svg.js";

const MIB = 2 ** 20;
/** Above this the machine did something else as well. */
const QUIET_LOAD = 0.5;

export function renderPage(report: Report): string {
  const { cases, live, coordinator, rounds } = report;
  const body = [
    header(report),
    ...tiles(cases),
    ...speedSections(cases, rounds),
    ...(live ? liveSections(live) : []),
    ...(coordinator ? coordinatorSections(coordinator) : []),
    ...promises(cases),
    ...everything(cases),
  ];
  const head = [
    '<meta charset="utf-8">',
    '<meta name="viewport" content="width=device-width, initial-scale=1">',
    '<meta name="color-scheme" content="light dark">',
    '<link rel="icon" href="data:,">',
    element("title", {}, "multifd bench"),
    element("style", {}, STYLE),
  ];
  return `<!doctype html>\n<html lang="en">\n<head>${head.join("\n")}</head>\n<body><main>${body.join("\n")}</main></body>\n</html>\n`;
}

function header({ machine, destinationMachine, qemu, startedAt, rounds }: Report): string {
  const facts = [
    ...(destinationMachine
      ? [`source on ${describe(machine)}`, `destination on ${describe(destinationMachine)}`]
      : [describe(machine)]),
    ...(qemu ? [qemu] : ["no QEMU to compare with"]),
    `${rounds} ${rounds === 1 ? "round" : "rounds"} each`,
    `${startedAt.slice(0, 16).replace("T", " ")} UTC`,
  ];
  const busy = [machine, ...(destinationMachine ? [destinationMachine] : [])].some(({ load }) => load > QUIET_LOAD);
  const warning = busy
    ? [
        element(
          "p",
          { class: "warning" },
          escapeText(
            `The machine was busy (load ${machine.load.toFixed(1)}) before this began: ratios may stand, times do not.`,
          ),
        ),
      ]
    : [];
  return element(
    "header",
    {},
    element("h1", {}, "multifd bench"),
    element("p", { class: "facts" }, facts.map((fact) => element("span", {}, escapeText(fact))).join(" ")),
    ...warning,
  );
}

function describe({ cores, cpu, memoryBytes, kernel, node }: Machine): string {
  return `${cores} × ${cpu}, ${(memoryBytes / 2 ** 30).toFixed(0)} GiB, Linux ${kernel}, Node ${node}`;
}

/** The few figures that one came for. */
function tiles(cases: readonly CaseReport[]): readonly string[] {
  const found = baseCases(cases).flatMap(({ method, variants }) => {
    const ours = variants.find(({ role }) => role === "ours");
    if (!ours) return [];
    const { toQemu, megabytesPerSecond } = ours;
    const [figure, unit] = toQemu
      ? [`${toQemu.speed.toFixed(2)}×`, "QEMU’s speed"]
      : [megabytesPerSecond.median.toFixed(0), "MB/s"];
    const beside = toQemu ? `CPU ${toQemu.cpu.toFixed(2)}×, wire ${toQemu.wire.toFixed(3)}×` : "our own two ends";
    return [
      element(
        "div",
        { class: "tile" },
        element("span", { class: "tile-name" }, escapeText(method)),
        element("span", { class: "tile-figure" }, escapeText(figure)),
        element("span", { class: "tile-unit" }, escapeText(unit)),
        element("span", { class: "tile-beside" }, escapeText(beside)),
      ),
    ];
  });
  return found.length === 0 ? [] : [element("div", { class: "tiles" }, ...found)];
}

function promises(cases: readonly CaseReport[]): readonly string[] {
  const judged = cases.filter(({ verdicts }) => verdicts.length > 0);
  if (judged.length === 0) return [];
  const rows = judged.flatMap((each) =>
    each.verdicts.map(({ promise, came, met }): readonly Cell[] => [
      `${each.method}, ${describeSettings(each)}`,
      promise,
      came.toPrecision(4),
      met ? { text: "met", kind: "chip met" } : { text: "missed", kind: "chip missed" },
    ]),
  );
  return [
    section(
      "What was promised",
      "multifd → multifd beside the performance contract.",
      figure("chart wide words", "Promises", table(["case", "promise", "came", ""], rows)),
    ),
  ];
}

function everything(cases: readonly CaseReport[]): readonly string[] {
  if (cases.length === 0) return [];
  const titles = [
    "",
    "wall s",
    "least–most",
    "MB/s",
    "wire MB",
    "CPU s",
    "MiB beside RAM",
    "× QEMU",
    "its CPU",
    "its wire",
    "× ceiling",
  ];
  const figures = cases.map((each) => {
    const rows = each.variants.map((one): readonly Cell[] => [
      one.variant,
      (one.wallMs.median / 1000).toFixed(2),
      `${(one.wallMs.min / 1000).toFixed(2)}–${(one.wallMs.max / 1000).toFixed(2)}`,
      one.megabytesPerSecond.median.toFixed(0),
      (one.wireBytes / 1e6).toFixed(1),
      `${one.sourceCpuSeconds.toFixed(2)} + ${one.destinationCpuSeconds.toFixed(2)}`,
      `${(one.sourcePeakAnonBytes / MIB).toFixed(0)} + ${(one.destinationPeakAnonBytes / MIB).toFixed(0)}`,
      one.toQemu?.speed.toFixed(2) ?? "",
      one.toQemu?.cpu.toFixed(2) ?? "",
      one.toQemu?.wire.toFixed(3) ?? "",
      one.speedToCeiling?.toFixed(2) ?? "",
    ]);
    return figure("chart wide", `${each.method}: ${describeSettings(each)}`, table(titles, rows));
  });
  const sizes = [...new Set(cases.map(({ ramBytes }) => formatSize(ramBytes)))].join(", ");
  return [
    section(
      "Every case",
      `${cases.length} cases of ${sizes}. Ratios are medians of the ratios round by round; report.json beside this page has every round.`,
      ...figures,
    ),
  ];
}
