/**
 * Style: the page's one style sheet; light and dark by what the reader's system prefers.
 */
export const STYLE = `
:root {
  --ground: #f6f7f9; --paper: #ffffff; --ink: #1a2230; --soft: #5b6675; --faint: #e4e8ee; --edge: #dfe4ea;
  --qemu: #d9822b; --ours: #2563eb; --ceiling: #64748b; --from-qemu: #0f9d8a; --to-qemu: #8b5cf6; --raw: #a3aebb; --raw-fresh: #c08497;
  --good: #15803d; --good-ground: #dcfce7; --bad: #b91c1c; --bad-ground: #fee2e2; --band: #ef4444;
  --shadow: 0 1px 2px rgb(16 24 40 / 6%), 0 1px 3px rgb(16 24 40 / 8%);
}
@media (prefers-color-scheme: dark) {
  :root {
    --ground: #0e131b; --paper: #171e29; --ink: #e6ebf2; --soft: #9aa7b8; --faint: #273142; --edge: #273142;
    --qemu: #f0a04b; --ours: #6ea0ff; --ceiling: #8b9bb0; --from-qemu: #35c7b2; --to-qemu: #b294ff; --raw: #5c6a7d; --raw-fresh: #a8748a;
    --good: #6ee7a0; --good-ground: #123524; --bad: #fca5a5; --bad-ground: #401a1d; --band: #f87171;
    --shadow: none;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--ground); color: var(--ink);
  font: 15px/1.5 system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
}
main { max-width: 1360px; margin: 0 auto; padding: 40px 24px 72px; }
h1 { font-size: 30px; line-height: 1.2; letter-spacing: -0.02em; margin: 0 0 8px; }
h2 { font-size: 20px; letter-spacing: -0.01em; margin: 48px 0 4px; }
h3 { font-size: 14px; font-weight: 600; margin: 0 0 10px; }
.facts { margin: 0; color: var(--soft); }
.facts span + span::before { content: "·"; margin: 0 8px 0 4px; }
.warning {
  margin: 16px 0 0; padding: 8px 14px; border-radius: 8px; background: var(--bad-ground); color: var(--bad); font-weight: 500;
}
.lead { margin: 0 0 16px; color: var(--soft); max-width: 92ch; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(190px, 1fr)); gap: 16px; margin-top: 28px; }
.tile { background: var(--paper); border: 1px solid var(--edge); border-radius: 12px; padding: 16px 20px; box-shadow: var(--shadow); display: grid; }
.tile-name { color: var(--soft); font-weight: 600; font-size: 13px; }
.tile-figure { font-size: 34px; font-weight: 700; line-height: 1.25; letter-spacing: -0.02em; color: var(--ours); font-variant-numeric: tabular-nums; }
.tile-unit { font-weight: 500; }
.tile-beside { color: var(--soft); font-size: 13px; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 480px), 1fr)); gap: 16px; }
figure { margin: 0; padding: 18px 20px; background: var(--paper); border: 1px solid var(--edge); border-radius: 12px; box-shadow: var(--shadow); min-width: 0; }
figure.wide { grid-column: 1 / -1; }
svg { display: block; width: 100%; height: auto; overflow: visible; font: 12px system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
text { fill: var(--soft); font-variant-numeric: tabular-nums; }
text.name { fill: var(--ink); }
text.note { fill: var(--ink); font-weight: 600; white-space: pre; }
text.round-number { fill: var(--paper); font-weight: 600; }
text.band-name { fill: var(--band); font-weight: 600; paint-order: stroke; stroke: var(--paper); stroke-width: 4px; }
text.wire-axis { fill: var(--qemu); }
.grid { stroke: var(--faint); stroke-width: 1; }
.axis-line { stroke: var(--soft); stroke-width: 1; }
.c-qemu { --color: var(--qemu); } .c-ours { --color: var(--ours); } .c-ceiling { --color: var(--ceiling); }
.c-from-qemu { --color: var(--from-qemu); } .c-to-qemu { --color: var(--to-qemu); } .c-raw { --color: var(--raw); } .c-raw-fresh { --color: var(--raw-fresh); }
.bar { fill: var(--color); }
.bar.pale { fill-opacity: 0.45; }
.bar.round { fill: var(--ours); fill-opacity: 0.85; }
.whisker { stroke: var(--ink); stroke-width: 1.5; stroke-opacity: 0.65; }
.line { fill: none; stroke: var(--color); stroke-width: 2; stroke-linejoin: round; }
.line.wire { stroke: var(--qemu); stroke-width: 2.5; }
.range { stroke: var(--color); stroke-width: 1.5; stroke-opacity: 0.6; }
.mark { fill: var(--color); stroke: var(--paper); stroke-width: 1; }
.cross { fill: none; stroke: var(--color); stroke-width: 2.5; stroke-linecap: round; }
.dashes { stroke: var(--color); stroke-width: 1.5; stroke-dasharray: 4 4; }
.level { stroke: var(--band); stroke-width: 1.5; stroke-dasharray: 2 4; }
text.level-name { fill: var(--band); }
.band { fill: var(--band); fill-opacity: 0.55; }
.legend { list-style: none; display: flex; flex-wrap: wrap; gap: 4px 18px; margin: 0 0 8px; padding: 0; font-size: 13px; color: var(--soft); }
.legend li { display: flex; align-items: center; gap: 7px; }
.swatch { width: 11px; height: 11px; border-radius: 3px; background: var(--color); }
.scrolls { overflow-x: auto; }
table { width: 100%; border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; }
th, td { padding: 6px 10px; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--faint); }
th { color: var(--soft); font-weight: 600; }
.words td:nth-child(2), .words th:nth-child(2) { text-align: left; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
tbody tr:last-child td { border-bottom: 0; }
.chip { padding: 1px 10px; border-radius: 999px; font-weight: 600; font-size: 12px; }
.chip.met { background: var(--good-ground); color: var(--good); }
.chip.missed { background: var(--bad-ground); color: var(--bad); }
@media (max-width: 640px) { main { padding: 24px 14px 48px; } figure { padding: 14px 12px; } }
`;
