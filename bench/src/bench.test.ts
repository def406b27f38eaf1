/** The whole harness, small: real migrations, and the report as a browser shows it. */
import assert from "node:assert/strict";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { createScratchDir, HeadlessBrowser, removeScratchDir } from "@multifd/test/peers";
import { measureCoordinator } from "./coordinator/measure-coordinator.js";
import { type MeasureOptions, parseOptions } from "./options.js";
import { chosenAddress, openListener } from "./remote/listener.js";
import { renderPage } from "./report/page.js";
import type { Report } from "./report.js";
import { runBench } from "./run-bench.js";

const MIGRATIONS_MS = 240_000;
const VARIANTS = 7;
/** Those that speak a codec: the raw loops do not. */
const VARIANTS_WITH_CODEC = 4;

async function bench(line: string): Promise<{ readonly report: Report; readonly shown: string }> {
  let shown = "";
  const options = parseOptions(line.split(" ")) as MeasureOptions;
  const report = await runBench(options, {
    say: () => {},
    show: (text) => {
      shown += text;
    },
  });
  return { report, shown };
}

describe("bench", () => {
  let dir: string;
  before(() => {
    dir = createScratchDir("disk");
  });
  after(() => removeScratchDir(dir));

  describe("a small run against QEMU 11.1", () => {
    let report: Report;
    let shown: string;

    before(async function () {
      this.timeout(MIGRATIONS_MS);
      const settings = "--ram-bytes 32M,64M --compression none,zstd --runs 1 --live-ram 32M --live-rates 8M";
      ({ report, shown } = await bench(`${settings} --parts speed,live --out ${join(dir, "report")}`));
      report = { ...report, coordinator: await measureCoordinator([2 ** 30, 2 ** 32], [2 ** 26], 1, () => {}) };
    });

    it("measures every pair there is, and writes what it measured", () => {
      const written = JSON.parse(readFileSync(join(dir, "report", "report.json"), "utf8")) as Report;
      assert.deepEqual(written, { ...report, coordinator: null });
      const counts = report.cases.map(({ method, ramBytes, variants }) => [
        method,
        ramBytes / 2 ** 20,
        variants.length,
      ]);
      assert.deepEqual(counts, [
        ["none", 32, VARIANTS],
        ["zstd", 32, VARIANTS_WITH_CODEC],
        ["none", 64, VARIANTS],
        ["zstd", 64, VARIANTS_WITH_CODEC],
      ]);
      assert.match(report.qemu ?? "", /version 11\.1/);
    });

    it("gives every variant all figures, and all but QEMU itself their ratios to it", () => {
      for (const { ramBytes, variants } of report.cases) {
        for (const { variant, role, wallMs, wireBytes, rounds, toQemu, ...rest } of variants) {
          assert.ok(wallMs.median > 0 && wallMs.min <= wallMs.median && wallMs.median <= wallMs.max, variant);
          assert.ok(wireBytes > ramBytes / 10 && wireBytes < ramBytes, `${variant}: ${wireBytes} bytes`);
          assert.ok(rest.sourcePeakAnonBytes > 0 && rest.destinationPeakAnonBytes > 0, variant);
          assert.equal(rounds.length, 1);
          assert.equal(toQemu === null, role === "qemu");
        }
      }
    });

    it("moves live guests of both kinds, and tells how one migration went", () => {
      assert.deepEqual(
        report.live?.points.map(({ variant, downtimeMs }) => [variant, downtimeMs !== null]),
        [
          ["QEMU 11.1 → QEMU 11.1", true],
          ["QEMU 11.1 → multifd", true],
          ["multifd moves QEMU 11.1", true],
          ["multifd → multifd", true],
        ],
      );
      const { rounds, pausedMs, completedMs } = report.live!.timeline;
      assert.ok(rounds.length >= 2 && pausedMs <= completedMs);
      assert.equal(rounds[0]?.dirtyBytes, 32 * 2 ** 20);
    });

    it("plans rounds over RAM that is not there, every page of it in a packet", () => {
      const every = report.coordinator!.points.map(({ rounds }) =>
        rounds.find(({ density }) => density === "every page"),
      );
      assert.deepEqual(
        every.map((round) => [round?.pages, round?.packets]),
        [
          [2 ** 18, 2 ** 11],
          [2 ** 20, 2 ** 13],
        ],
      );
    });

    it("shows tables on the terminal", () => {
      assert.match(shown, /^none, 32 MiB mixed, 2 channels, unix$/m);
      assert.match(shown, /^multifd → QEMU 11\.1 +\d/m);
      assert.match(shown, /a guest of 32 MiB/);
    });

    describe("its page in Chromium", () => {
      let browser: HeadlessBrowser;
      before(async () => {
        browser = await HeadlessBrowser.start();
      });
      after(() => browser.close());

      for (const scheme of ["light", "dark"] as const) {
        for (const width of [1400, 420]) {
          it(`is whole and fits ${width} pixels, ${scheme}`, async () => {
            const path = join(dir, "page.html");
            writeFileSync(path, renderPage(report));
            const { page, complaints } = await browser.show(path, { width, scheme });
            const seen = (await page.evaluate(LOOK)) as Seen;
            await page.close();
            assert.deepEqual(complaints, []);
            assert.deepEqual(seen.outside, []);
            assert.ok(seen.pageWidth <= width, `the page is ${seen.pageWidth} pixels wide`);
            const bars = VARIANTS + VARIANTS_WITH_CODEC; // of throughput, and twice as many of CPU: source and destination
            assert.equal(seen.bars, 3 * bars + report.live!.timeline.rounds.length);
            const sizes = 2 * bars;
            const live = 2 * 4;
            const coordinator = 3 * 2 + 2;
            assert.equal(seen.marks, sizes + live + coordinator);
            assert.equal(seen.ground, scheme === "light" ? "rgb(246, 247, 249)" : "rgb(14, 19, 27)");
          });
        }
      }
    });
  });

  it("measures between two machines, as far as one machine can tell", async function () {
    this.timeout(MIGRATIONS_MS);
    const server = await openListener({ kind: "tcp", host: "127.0.0.1", port: 0 }, "11.1", () => {});
    try {
      const at = chosenAddress(server, { kind: "tcp", host: "127.0.0.1", port: 0 });
      assert.equal(at.kind, "tcp");
      const { report } = await bench(
        `--to tcp:127.0.0.1:${at.kind === "tcp" ? at.port : 0} --ram-bytes 32M --compression none --runs 1 --out ${join(dir, "remote")}`,
      );
      assert.deepEqual(
        report.cases.map(({ method, transport, variants }) => [method, transport, variants.length]),
        [["none", "tcp", VARIANTS]],
      );
      assert.equal(report.destinationMachine?.kernel, report.machine.kernel);
      assert.ok(existsSync(join(dir, "remote", "report.html")));
    } finally {
      server.close();
    }
  });
});

type Seen = {
  readonly outside: readonly string[];
  readonly pageWidth: number;
  readonly bars: number;
  readonly marks: number;
  readonly ground: string;
};

/** Runs in the page: what it shows, and text that leaves its drawing or its box. */
const LOOK = `(() => {
  const outside = [];
  for (const svg of document.querySelectorAll("svg")) {
    const frame = svg.closest("figure").getBoundingClientRect();
    for (const text of svg.querySelectorAll("text")) {
      const box = text.getBoundingClientRect();
      if (box.left < frame.left || box.right > frame.right || box.top < frame.top || box.bottom > frame.bottom) outside.push(text.textContent);
    }
  }
  return {
    outside,
    pageWidth: document.documentElement.scrollWidth,
    bars: document.querySelectorAll("rect.bar").length,
    marks: document.querySelectorAll("path.mark").length,
    ground: getComputedStyle(document.body).backgroundColor,
  };
})()`;
