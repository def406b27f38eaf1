import assert from "node:assert/strict";
import { drawing, element, escapeText, label } from "./svg.js";

describe("SVG as text", () => {
  it("escapes what comes from outside, in attributes and between tags", () => {
    assert.equal(escapeText(`<a b="c" & 'd'>`), "&#60;a b=&#34;c&#34; &#38; &#39;d&#39;&#62;");
    assert.equal(element("g", { class: '"><script>' }), '<g class="&#34;&#62;&#60;script&#62;"></g>');
    assert.match(label({ x: 0, y: 0 }, "<b>", "name"), />&#60;b&#62;<\/text>$/);
  });

  it("says what a drawing shows, for those who do not see it", () => {
    assert.equal(drawing(10, 5.04, "a & b"), '<svg viewBox="0 0 10 5" role="img" aria-label="a &#38; b"></svg>');
  });
});
