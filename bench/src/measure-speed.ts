/**
 * Measures speed: every case of the plan, one after the other.
 *
 * An image is made once for all cases that have it, and so is the device part that
 * a QEMU destination needs. Both lie in a scratch directory in memory.
 */
import { rmSync } from "node:fs";
import { join } from "node:path";
import type { QemuVersion } from "@multifd/test/peers";
import { judge, judgeChoice } from "./contract.js";
import type { Place } from "./destinations.js";
import { takeDevicePart } from "./device-parts.js";
import { findImage } from "./images.js";
import { checkRoom } from "./machine.js";
import { type Case, describeCase } from "./plan.js";
import type { CaseReport } from "./report.js";
import { measureCase } from "./rounds.js";
import { summarize } from "./summary.js";
import { formatCase } from "./table.js";
import { isWanted, type Variant, variantsWith } from "./variants.js";

export type SpeedTerms = {
  readonly place: Place;
  readonly qemu: QemuVersion;
  /** Whether one is installed here, and where destinations run. */
  readonly hasQemu: { readonly here: boolean; readonly there: boolean };
  /** Only variants with one of these in their name; empty for all. */
  readonly only: readonly string[];
  readonly rounds: number;
  /** A directory in memory. */
  readonly dir: string;
};

/** @param tell  Given each case as it is done, with its table. */
export async function measureSpeed(
  cases: readonly Case[],
  terms: SpeedTerms,
  say: (line: string) => void,
  tell: (report: CaseReport, table: string) => void,
): Promise<void> {
  const { place, qemu, rounds, dir } = terms;
  const imagePath = join(dir, "image");
  const devices = new Map<number, string>();
  const variants = variantsWith(qemu, ({ ramBytes }) => devices.get(ramBytes)!);
  /** Medians of multifd → multifd, for a codec that is to be as fast as the best of them. */
  const oursBySettings = new Map<string, readonly number[]>();
  let held = "";
  for (const each of cases) {
    const { codec, image, ramBytes } = each;
    const chosen = variants.filter((variant) => variant.speaks(codec) && isChosen(variant, terms));
    if (chosen.length === 0) {
      say(`${describeCase(each)}: left out, for none of the variants that can be measured here speaks it`);
      continue;
    }
    if (held !== `${image} ${ramBytes}`) {
      rmSync(imagePath, { force: true });
      const { write, stored } = findImage(image);
      const fills = variants.some((variant) => variant.fillsImage && isChosen(variant, terms));
      checkRoom(ramBytes, ramBytes * (fills ? 1 : stored), ramBytes);
      if (chosen.some(({ needsQemu }) => needsQemu.there) && !devices.has(ramBytes))
        devices.set(ramBytes, await takeDevicePart(qemu, ramBytes, dir));
      say(`making an image of ${ramBytes / 2 ** 20} MiB, ${image}`);
      write(imagePath, ramBytes);
      held = `${image} ${ramBytes}`;
    }
    const measured = await measureCase(chosen, { case: each, imagePath, place }, rounds, say);
    const summaries = summarize(ramBytes, measured);
    const { codec: _, ...settings } = each;
    const key = Object.values(settings).join("/");
    const fixed = oursBySettings.get(key) ?? [];
    const verdicts = [...judge(each, summaries), ...judgeChoice(each, summaries, fixed)];
    oursBySettings.set(key, [
      ...fixed,
      ...summaries.flatMap(({ role, wallMs }) => (role === "ours" ? wallMs.median : [])),
    ]);
    tell(
      { ...settings, method: codec.method, variants: summaries, verdicts },
      formatCase(describeCase(each), summaries, verdicts),
    );
  }
}

function isChosen({ name, needsQemu }: Variant, { only, hasQemu }: SpeedTerms): boolean {
  return isWanted(name, only) && (hasQemu.here || !needsQemu.here) && (hasQemu.there || !needsQemu.there);
}
