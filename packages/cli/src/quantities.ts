/**
 * Quantities as people write and read them: sizes, rates, times.
 *
 * Suffixes are powers of 1024, as in QEMU. Parsing is strict, for a size read
 * wrong moves the wrong amount of RAM; formatting keeps three figures.
 */

const UNITS = ["", "K", "M", "G", "T"];

/**
 * Reads `4096`, `64K`, `100M`, `1.5G`, `2T`; a trailing `B` or `iB` is taken too.
 *
 * @returns Whole bytes, or null for anything else and beyond 2^53.
 */
export function parseBytes(text: string): number | null {
  const match = /^(\d{1,16}(?:\.\d{1,6})?)([KMGT]?)(?:i?B)?$/i.exec(text);
  if (!match) return null;
  const bytes = Number(match[1]) * 1024 ** UNITS.indexOf(match[2]!.toUpperCase());
  return Number.isSafeInteger(bytes) ? bytes : null;
}

/** `1536` is `1.50 KiB`; three figures, the unit behind them. */
export function formatBytes(bytes: number): string {
  let scaled = bytes;
  let unit = 0;
  // 999.5 would be written with four figures.
  while (scaled >= 999.5 && unit < UNITS.length - 1) {
    scaled /= 1024;
    unit++;
  }
  return unit === 0 ? `${Math.round(bytes)} B` : `${threeFigures(scaled)} ${UNITS[unit]}iB`;
}

/** Rates in powers of ten, as links are sold: `1.25 GB/s`. */
export function formatRate(bytesPerSecond: number): string {
  const unit = bytesPerSecond >= 999.5e6 ? "GB/s" : "MB/s";
  return `${threeFigures(bytesPerSecond / (unit === "GB/s" ? 1e9 : 1e6))} ${unit}`;
}

/** `840 ms`, `1.24 s`, `3 min 20 s`. */
export function formatMs(ms: number): string {
  if (ms < 999.5) return `${ms < 10 ? ms.toFixed(1) : Math.round(ms)} ms`;
  if (ms < 99_950) return `${threeFigures(ms / 1000)} s`;
  const seconds = Math.round(ms / 1000);
  return `${Math.floor(seconds / 60)} min ${seconds % 60} s`;
}

function threeFigures(value: number): string {
  if (value >= 99.95) return value.toFixed(0);
  return value >= 9.995 ? value.toFixed(1) : value.toFixed(2);
}
