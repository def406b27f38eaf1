/**
 * Scales: numbers to places on an axis, and the round numbers that are written beside it.
 */
export type Scale = {
  /** 0 at the axis's beginning, 1 at its end. */
  readonly at: (value: number) => number;
  readonly ticks: readonly number[];
};

/** From 0 up to a round number not below `max`. @param ticksMax  How many steps at most. */
export function linearScale(max: number, ticksMax = 5): Scale {
  const top = max > 0 && Number.isFinite(max) ? max : 1;
  const step = roundStep(top / ticksMax);
  const count = Math.ceil(top / step - 1e-9);
  return {
    at: (value) => value / (step * count),
    ticks: Array.from({ length: count + 1 }, (_, tick) => tick * step),
  };
}

/** Whole powers of `base` around both; what is not positive stands at the beginning. */
export function logScale(min: number, max: number, base: 2 | 10): Scale {
  const log = (value: number) => Math.log(value) / Math.log(base);
  const first = Math.floor(log(min) + 1e-9);
  const last = Math.max(first + 1, Math.ceil(log(max) - 1e-9));
  return {
    at: (value) => (value > 0 ? Math.max(0, (log(value) - first) / (last - first)) : 0),
    ticks: Array.from({ length: last - first + 1 }, (_, tick) => base ** (first + tick)),
  };
}

/** 1, 2 or 5 times a power of ten, not below `least`. */
function roundStep(least: number): number {
  const power = 10 ** Math.floor(Math.log10(least));
  const factor = [1, 2, 5, 10].find((each) => each * power >= least * (1 - 1e-9)) ?? 10;
  return factor * power;
}
