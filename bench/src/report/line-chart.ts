/**
 * Line chart: one line per variant over a quantity, with what each point ranged over.
 *
 * A series may end with a cross at the upper edge: there it has no value any more,
 * and its tip says why. Marks differ in form as well as in colour.
 */
import { linearScale, logScale, type Scale } from "./scales.js";
import { drawing, element, label, tip } from "./svg.js";

export type LinePoint = {
  readonly x: number;
  readonly y: number;
  readonly range: { readonly min: number; readonly max: number } | null;
  readonly tip: string;
};

export type Series = {
  readonly name: string;
  /** The variant's colour, a class of the page's style. */
  readonly color: string;
  readonly points: readonly LinePoint[];
  /** Where it has no value any more. */
  readonly end: { readonly x: number; readonly tip: string } | null;
};

export type Axis = {
  readonly title: string;
  readonly format: (value: number) => string;
  readonly scale: "linear" | "log2" | "log10";
};

export type LineChart = {
  readonly summary: string;
  readonly x: Axis;
  readonly y: Axis;
  readonly series: readonly Series[];
  /** A line across, for what is compared with; null for none. */
  readonly level: { readonly y: number; readonly name: string } | null;
};

const WIDTH = 640;
const HEIGHT = 330;
const AREA = { left: 66, right: 616, top: 28, bottom: 276 };
const MARK = 4.5;
/** Between the crosses of two series. */
const END_STEP = 14;

export function drawLines({ summary, x, y, series, level }: LineChart): string {
  const points = series.flatMap((each) => each.points);
  const xs = [...points.map((point) => point.x), ...series.flatMap(({ end }) => end?.x ?? [])];
  const ys = points.flatMap((point) => (point.range ? [point.y, point.range.min, point.range.max] : [point.y]));
  if (level) ys.push(level.y);
  const [scaleX, scaleY] = [scaleOf(x, xs), scaleOf(y, ys)];
  const place = {
    x: (value: number) => AREA.left + scaleX.at(value) * (AREA.right - AREA.left),
    y: (value: number) => AREA.bottom - scaleY.at(value) * (AREA.bottom - AREA.top),
  };
  return drawing(
    WIDTH,
    HEIGHT,
    summary,
    ...drawAxes(x, y, scaleX, scaleY, place),
    ...(level ? drawLevel(level, place) : []),
    ...series.map((each, index) => drawSeries(each, index, place)),
  );
}

type Place = { readonly x: (value: number) => number; readonly y: (value: number) => number };

function scaleOf({ scale }: Axis, values: readonly number[]): Scale {
  const most = Math.max(...values, Number.MIN_VALUE);
  if (scale === "linear") return linearScale(most, 5);
  const positive = values.filter((value) => value > 0);
  return logScale(positive.length > 0 ? Math.min(...positive) : 1, most, scale === "log2" ? 2 : 10);
}

/** As many labels as find room; the grid has all lines. */
const LABELS_MAX = 11;

function drawAxes(x: Axis, y: Axis, scaleX: Scale, scaleY: Scale, place: Place): string[] {
  const every = Math.ceil(scaleX.ticks.length / LABELS_MAX);
  return [
    ...scaleY.ticks.map((tick) => {
      const at = place.y(tick);
      const line = element("line", { x1: AREA.left, x2: AREA.right, y1: at, y2: at, class: "grid" });
      return line + label({ x: AREA.left - 8, y: at + 4 }, y.format(tick), "tick", "end");
    }),
    ...scaleX.ticks.map((tick, index) => {
      const at = place.x(tick);
      const line = element("line", { x1: at, x2: at, y1: AREA.bottom, y2: AREA.bottom + 4, class: "axis-line" });
      const text = index % every === 0 ? label({ x: at, y: AREA.bottom + 19 }, x.format(tick), "tick", "middle") : "";
      return line + text;
    }),
    element("line", { x1: AREA.left, x2: AREA.right, y1: AREA.bottom, y2: AREA.bottom, class: "axis-line" }),
    label({ x: (AREA.left + AREA.right) / 2, y: AREA.bottom + 41 }, x.title, "axis", "middle"),
    label({ x: 4, y: 14 }, y.title, "axis"),
  ];
}

function drawLevel({ y, name }: NonNullable<LineChart["level"]>, place: Place): string[] {
  const at = place.y(y);
  return [
    element("line", { x1: AREA.left, x2: AREA.right, y1: at, y2: at, class: "level" }),
    label({ x: AREA.right - 6, y: at + 14 }, name, "level-name", "end"),
  ];
}

function drawSeries({ name, color, points, end }: Series, index: number, place: Place): string {
  const path = points.map(
    (point, at) => `${at === 0 ? "M" : "L"}${round(place.x(point.x))} ${round(place.y(point.y))}`,
  );
  const ranges = points.flatMap(({ x, range }) =>
    range === null || range.min === range.max
      ? []
      : element("line", {
          ...{ x1: place.x(x), x2: place.x(x), y1: place.y(range.min), y2: place.y(range.max) },
          class: `range ${color}`,
        }),
  );
  const marks = points.map((point) =>
    element("path", { d: markPath(index, place.x(point.x), place.y(point.y)), class: `mark ${color}` }, tip(point.tip)),
  );
  const last = points.at(-1);
  const ending = end === null ? [] : drawEnd(end, last ?? null, color, index, place);
  return element(
    "g",
    { class: "series", "data-series": name },
    ...(path.length > 1 ? [element("path", { d: path.join(""), class: `line ${color}` })] : []),
    ...ending,
    ...ranges,
    ...marks,
  );
}

/** A dashed line to above the upper edge and a cross there; crosses of several series stand side by side. */
function drawEnd(
  end: NonNullable<Series["end"]>,
  last: LinePoint | null,
  color: string,
  index: number,
  place: Place,
): string[] {
  const [x, y] = [place.x(end.x) - index * END_STEP, AREA.top - END_STEP / 2];
  const d = `M${round(x - MARK)} ${round(y - MARK)}L${round(x + MARK)} ${round(y + MARK)}M${round(x - MARK)} ${round(y + MARK)}L${round(x + MARK)} ${round(y - MARK)}`;
  const dashes =
    last === null
      ? []
      : [element("line", { x1: place.x(last.x), y1: place.y(last.y), x2: x, y2: y, class: `dashes ${color}` })];
  return [...dashes, element("path", { d, class: `cross ${color}` }, tip(end.tip))];
}

/** Circle, square, triangle, diamond, in turn. */
function markPath(index: number, x: number, y: number): string {
  const [r, at] = [MARK, (dx: number, dy: number) => `${round(x + dx)} ${round(y + dy)}`];
  switch (index % 4) {
    case 0:
      return `M${at(-r, 0)}a${r} ${r} 0 1 0 ${2 * r} 0a${r} ${r} 0 1 0 ${-2 * r} 0Z`;
    case 1:
      return `M${at(-r + 0.5, -r + 0.5)}h${2 * r - 1}v${2 * r - 1}h${1 - 2 * r}Z`;
    case 2:
      return `M${at(0, -r - 0.5)}L${at(r + 0.5, r - 0.5)}L${at(-r - 0.5, r - 0.5)}Z`;
    default:
      return `M${at(0, -r - 1)}L${at(r + 1, 0)}L${at(0, r + 1)}L${at(-r - 1, 0)}Z`;
  }
}

function round(value: number): number {
  return Math.round(value * 10) / 10;
}
