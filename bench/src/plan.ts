/**
 * Plan: which cases are measured.
 *
 * A case is one setting of codec, channels, transport, image and size, which every
 * variant runs in turns. Around a base case each setting is varied on its own,
 * which is what charts are drawn of; whoever names lists gets all their combinations.
 */
import type { Codec } from "./codecs.js";
import type { Transport } from "./endpoint.js";

export type Case = {
  readonly codec: Codec;
  readonly channels: number;
  readonly transport: Transport;
  /** One of `images`. */
  readonly image: string;
  readonly ramBytes: number;
};

/** What a user may list; null where nothing was said. */
export type Lists = {
  readonly codecs: readonly Codec[] | null;
  readonly channels: readonly number[] | null;
  readonly transports: readonly Transport[] | null;
  readonly images: readonly string[] | null;
  readonly sizes: readonly number[] | null;
};

export type Everything = {
  readonly codecs: readonly Codec[];
  readonly images: readonly string[];
};

const GIB = 2 ** 30;
/** That of the performance contract but for its size, which a quick run makes smaller. */
const BASE = { channels: 2, transport: "unix", image: "mixed" } as const;
const QUICK_BYTES = GIB;
const FULL_BYTES = 4 * GIB;
const QUICK_SIZES = [GIB / 4, GIB / 2];
const FULL_SIZES = [GIB, 8 * GIB];
const FULL_CHANNELS = [1, 4, 8];

/** All combinations of what is listed; what is not stands at the base. */
function combine(lists: Lists, baseBytes: number, everything: Everything): readonly Case[] {
  const cases: Case[] = [];
  for (const ramBytes of lists.sizes ?? [baseBytes])
    for (const image of lists.images ?? [BASE.image])
      for (const transport of lists.transports ?? [BASE.transport])
        for (const channels of lists.channels ?? [BASE.channels])
          for (const codec of lists.codecs ?? everything.codecs)
            cases.push({ codec, channels, transport, image, ramBytes });
  return cases;
}

const nothing: Lists = { codecs: null, channels: null, transports: null, images: null, sizes: null };

/**
 * @param full  Every setting in turn, for every codec; otherwise a few minutes' worth.
 * @returns Without repetition; first the base case of every codec.
 */
export function planCases(lists: Lists, full: boolean, everything: Everything): readonly Case[] {
  const baseBytes = full ? FULL_BYTES : QUICK_BYTES;
  const base = combine(lists, baseBytes, everything);
  const isListed = Object.values(lists).some((list) => list !== null);
  if (isListed && !full) return base;
  const axes: readonly Lists[] = full
    ? [
        { ...lists, channels: FULL_CHANNELS },
        { ...lists, transports: ["tcp"] },
        { ...lists, images: everything.images },
        { ...lists, sizes: FULL_SIZES },
      ]
    : [{ ...nothing, sizes: QUICK_SIZES, codecs: everything.codecs.slice(0, 1) }];
  const all = [...base, ...axes.flatMap((axis) => combine(axis, baseBytes, everything))];
  return [...new Map(all.map((each) => [caseKey(each), each])).values()];
}

/** One word for each case. */
export function caseKey({ codec, channels, transport, image, ramBytes }: Case): string {
  return [codec.method, channels, transport, image, ramBytes].join("/");
}

export function describeCase({ codec, channels, transport, image, ramBytes }: Case): string {
  return `${codec.method}, ${ramBytes / 2 ** 20} MiB ${image}, ${channels} ${channels === 1 ? "channel" : "channels"}, ${transport}`;
}
