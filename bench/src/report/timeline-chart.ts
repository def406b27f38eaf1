/**
 * Timeline chart: one live migration, round by round, with the bytes on the wire behind.
 *
 * Each round is a bar as long as it took and as high as RAM was dirty when it began. The time in which
 * the guest stood still is a band of its own.
 */
import type { Timeline } from "../live/timeline.js";
import { linearScale } from "./scales.js";
import { drawing, element, label, tip } from "./svg.js";

const WIDTH = 1320;
const HEIGHT = 330;
const AREA = { left: 66, right: 1254, top: 28, bottom: 276 };
const MIB = 2 ** 20;
/** A smaller bar has no room for its number. */
const NUMBERED = { width: 18, height: 20 };
/** A band narrower than this would not be seen. */
const BAND_WIDTH_MIN = 2;

export function drawTimeline({ rounds, wire, pausedMs, completedMs }: Timeline, summary: string): string {
  const time = linearScale(completedMs / 1000, 12);
  const dirty = linearScale(Math.max(...rounds.map(({ dirtyBytes }) => dirtyBytes)) / MIB, 5);
  const sent = linearScale(Math.max(...wire.map(({ bytes }) => bytes)) / MIB, 5);
  const span = { x: AREA.right - AREA.left, y: AREA.bottom - AREA.top };
  const x = (ms: number) => AREA.left + time.at(ms / 1000) * span.x;
  const left = (bytes: number) => AREA.bottom - dirty.at(bytes / MIB) * span.y;
  const right = (bytes: number) => AREA.bottom - sent.at(bytes / MIB) * span.y;

  const grid = dirty.ticks.map((tick) => {
    const at = left(tick * MIB);
    const line = element("line", { x1: AREA.left, x2: AREA.right, y1: at, y2: at, class: "grid" });
    return line + label({ x: AREA.left - 8, y: at + 4 }, `${tick}`, "tick", "end");
  });
  const wireTicks = sent.ticks.map((tick) => label({ x: AREA.right + 8, y: right(tick * MIB) + 4 }, `${tick}`, "tick"));
  const seconds = time.ticks.map((tick) => {
    const line = element("line", { ...vertical(x(tick * 1000), AREA.bottom, AREA.bottom + 4), class: "axis-line" });
    return line + label({ x: x(tick * 1000), y: AREA.bottom + 19 }, `${+tick.toFixed(3)}`, "tick", "middle");
  });
  const bars = rounds.map(({ round, fromMs, toMs, dirtyBytes }) => {
    const box = { x: x(fromMs) + 0.5, y: left(dirtyBytes), height: AREA.bottom - left(dirtyBytes) };
    const width = Math.max(1, x(toMs) - x(fromMs) - 1);
    const said = `round ${round}: ${(dirtyBytes / MIB).toFixed(1)} MiB dirty, sent in ${Math.round(toMs - fromMs)} ms`;
    const rect = element("rect", { ...box, width, class: "bar round", "data-round": round }, tip(said));
    if (width < NUMBERED.width || box.height < NUMBERED.height) return rect;
    const number = { x: box.x + width / 2, y: box.y + 16 };
    return rect + label(number, `${round}`, "round-number", "middle");
  });
  const bandWidth = Math.max(BAND_WIDTH_MIN, x(completedMs) - x(pausedMs));
  const band = element(
    "rect",
    { x: x(pausedMs), y: AREA.top, width: bandWidth, height: span.y, class: "band" },
    tip(`the guest stands still for ${(completedMs - pausedMs).toFixed(0)} ms`),
  );
  const bandEnd = x(pausedMs) + bandWidth;
  const path = wire.map(
    ({ atMs, bytes }, at) => `${at === 0 ? "M" : "L"}${x(atMs).toFixed(1)} ${right(bytes).toFixed(1)}`,
  );
  return drawing(
    WIDTH,
    HEIGHT,
    summary,
    ...grid,
    ...seconds,
    ...wireTicks,
    ...bars,
    band,
    element("path", { d: path.join(""), class: "line wire" }),
    element("line", { x1: AREA.left, x2: AREA.right, y1: AREA.bottom, y2: AREA.bottom, class: "axis-line" }),
    label({ x: 4, y: 14 }, "MiB dirty when the round begins", "axis"),
    label({ x: WIDTH - 4, y: 14 }, "MiB on the wire", "axis wire-axis", "end"),
    label({ x: Math.min(bandEnd, AREA.right) - bandWidth - 6, y: AREA.top + 12 }, "guest paused", "band-name", "end"),
    label({ x: (AREA.left + AREA.right) / 2, y: AREA.bottom + 41 }, "seconds", "axis", "middle"),
  );
}

function vertical(x: number, y1: number, y2: number) {
  return { x1: x, x2: x, y1, y2 };
}
