/**
 * HTML: the few shapes that the report is made of.
 */
import { element, escapeText } from "./svg.js";

/** @param explanation  What one sees, in a sentence or two. */
export function section(title: string, explanation: string, ...figures: readonly string[]): string {
  return element(
    "section",
    {},
    element("h2", {}, escapeText(title)),
    element("p", { class: "lead" }, escapeText(explanation)),
    element("div", { class: "figures" }, ...figures),
  );
}

/** @param body  A drawing, a legend above it or a table. */
export function figure(kind: string, title: string, ...body: readonly string[]): string {
  return element("figure", { class: kind }, element("h3", {}, escapeText(title)), ...body);
}

export type LegendEntry = { readonly name: string; readonly color: string };

export function legend(entries: readonly LegendEntry[]): string {
  const items = entries.map(({ name, color }) =>
    element("li", {}, element("span", { class: `swatch ${color}` }), escapeText(name)),
  );
  return element("ul", { class: "legend" }, ...items);
}

export type Cell = string | { readonly text: string; readonly kind: string };

/** The first column to the left, the others to the right. */
export function table(titles: readonly string[], rows: readonly (readonly Cell[])[]): string {
  const head = element("tr", {}, ...titles.map((title) => element("th", {}, escapeText(title))));
  const body = rows.map((row) =>
    element(
      "tr",
      {},
      ...row.map((cell) =>
        typeof cell === "string"
          ? element("td", {}, escapeText(cell))
          : element("td", {}, element("span", { class: cell.kind }, escapeText(cell.text))),
      ),
    ),
  );
  return element(
    "div",
    { class: "scrolls" },
    element("table", {}, element("thead", {}, head), element("tbody", {}, ...body)),
  );
}
