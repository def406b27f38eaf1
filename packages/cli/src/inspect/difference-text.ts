/** Differences for people: one line each, grouped by device. */
import type { Difference } from "./difference.js";

export function differenceText(found: readonly Difference[]): string {
  if (found.length === 0) return "no differences\n";
  const lines: string[] = [];
  let group = "";
  for (const { what, path, text } of found) {
    const [first = "", ...rest] = path;
    const isWhole = rest.length === 0;
    if (!isWhole && first !== group) lines.push(first);
    group = isWhole ? "" : first;
    const name = isWhole ? [what, first].filter((word) => word !== "").join(" ") : `  ${rest.join(" › ")}`;
    lines.push(`${name}: ${text}`);
  }
  return `${lines.join("\n")}\n`;
}
