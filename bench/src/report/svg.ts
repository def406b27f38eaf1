/**
 * SVG: elements as text, everything from outside escaped.
 */
export type Attributes = Readonly<Record<string, string | number>>;

/** @param children  Elements, or text that went through `escapeText`. */
export function element(name: string, attributes: Attributes, ...children: readonly string[]): string {
  const written = Object.entries(attributes).map(([key, value]) => ` ${key}="${escapeText(formatValue(value))}"`);
  return `<${name}${written.join("")}>${children.join("")}</${name}>`;
}

/** For text between tags and within quoted attributes. */
export function escapeText(text: string): string {
  return text.replace(/[&<>"']/g, (character) => `&#${character.charCodeAt(0)};`);
}

/** A line of text. @param anchor  Which end of it is at x. */
export function label(
  at: { readonly x: number; readonly y: number },
  text: string,
  kind: string,
  anchor: "start" | "middle" | "end" = "start",
): string {
  return element("text", { x: at.x, y: at.y, class: kind, "text-anchor": anchor }, escapeText(text));
}

/** What a pointer that rests on an element is told. */
export function tip(text: string): string {
  return element("title", {}, escapeText(text));
}

/** How wide a text comes out at most, at the charts' letter size. */
export function textWidth(text: string): number {
  return text.length * 7.2;
}

/** A drawing that is as wide as its place. @param summary  What it shows, for those who do not see it. */
export function drawing(width: number, height: number, summary: string, ...children: readonly string[]): string {
  const attributes = {
    viewBox: `0 0 ${formatValue(width)} ${formatValue(height)}`,
    role: "img",
    "aria-label": summary,
  };
  return element("svg", attributes, ...children);
}

/** A tenth of a unit is finer than any screen. */
function formatValue(value: string | number): string {
  return typeof value === "number" ? String(Math.round(value * 10) / 10) : value;
}
