/**
 * Bar chart: one bar per variant, lying, longest is most; a whisker from the least round to the best.
 */
import { linearScale } from "./scales.js";
import { drawing, element, label, textWidth, tip } from "./svg.js";

export type BarPart = { readonly value: number; readonly tone: "whole" | "pale" };

export type Bar = {
  readonly name: string;
  /** The variant's colour, a class of the page's style. */
  readonly color: string;
  /** One after the other. */
  readonly parts: readonly BarPart[];
  readonly range: { readonly min: number; readonly max: number } | null;
  /** Written behind the bar. */
  readonly note: string;
  /** Said of it when pointed at. */
  readonly tip: string;
};

export type BarChart = {
  readonly summary: string;
  readonly unit: string;
  readonly bars: readonly Bar[];
  readonly format: (value: number) => string;
};

const WIDTH = 640;
const ROW = 30;
const THICKNESS = 18;
const TOP = 8;
const FOOT = 38;
const GAP = 10;

export function drawBars({ summary, unit, bars, format }: BarChart): string {
  const left = Math.max(...bars.map(({ name }) => textWidth(name))) + GAP;
  const right = Math.max(...bars.map(({ note }) => textWidth(note))) + GAP;
  const span = WIDTH - left - right;
  const scale = linearScale(Math.max(...bars.map(mostOf)), 4);
  const bottom = TOP + bars.length * ROW;
  const x = (value: number) => left + scale.at(value) * span;
  const grid = scale.ticks.map((tick) => {
    const line = element("line", { x1: x(tick), x2: x(tick), y1: TOP, y2: bottom, class: "grid" });
    return line + label({ x: x(tick), y: bottom + 16 }, format(tick), "tick", "middle");
  });
  const rows = bars.map((bar, index) => drawBar(bar, TOP + index * ROW + ROW / 2, x));
  const axis = label({ x: left + span / 2, y: bottom + 33 }, unit, "axis", "middle");
  return drawing(WIDTH, bottom + FOOT, summary, ...grid, ...rows, axis);
}

function mostOf({ parts, range }: Bar): number {
  return Math.max(range?.max ?? 0, sum(parts));
}

function sum(parts: readonly BarPart[]): number {
  return parts.reduce((total, { value }) => total + value, 0);
}

function drawBar({ name, color, parts, range, note, tip: said }: Bar, middle: number, x: (value: number) => number) {
  const name_ = label({ x: x(0) - GAP, y: middle + 4 }, name, "name", "end");
  let from = 0;
  const drawn = parts.map(({ value, tone }) => {
    const [start, end] = [x(from), x(from + value)];
    from += value;
    const box = { x: start, y: middle - THICKNESS / 2, width: Math.max(1, end - start), height: THICKNESS, rx: 2 };
    return element("rect", { ...box, class: `bar ${color} ${tone}` }, tip(said));
  });
  const whisker =
    range === null
      ? []
      : [
          element("line", { x1: x(range.min), x2: x(range.max), y1: middle, y2: middle, class: "whisker" }),
          ...[range.min, range.max].map((end) =>
            element("line", { x1: x(end), x2: x(end), y1: middle - 4, y2: middle + 4, class: "whisker" }),
          ),
        ];
  const end = Math.max(x(sum(parts)), range === null ? 0 : x(range.max));
  return [name_, ...drawn, ...whisker, label({ x: end + 6, y: middle + 4 }, note, "note")].join("");
}
