/**
 * Configuration capability: a configuration section with one capability more, or one less.
 *
 * A snapshot says `mapped-ram` in its configuration and a stream must not; a
 * destination compares what is listed with its own settings. The section's other
 * bytes stay as the source wrote them. What comes here has been decoded before.
 */
import { ByteWriter } from "./byte-writer.js";
import { viewOf } from "./layout.js";
import { CAPABILITIES_SUBSECTION, PAGE_BITS_SUBSECTION, putCapabilities, SECTION_SUBSECTION } from "./main-stream.js";
import { decodeText } from "./wire-text.js";

/** Lists a capability; a configuration that has it already comes back as it is. */
export function addCapability(configuration: Uint8Array, capability: string): Uint8Array {
  return relist(configuration, (listed) => (listed.includes(capability) ? listed : [...listed, capability]));
}

/** Unlists a capability; without any left the subsection goes, too. */
export function dropCapability(configuration: Uint8Array, capability: string): Uint8Array {
  return relist(configuration, (listed) => listed.filter((name) => name !== capability));
}

function relist(configuration: Uint8Array, change: (listed: readonly string[]) => readonly string[]): Uint8Array {
  const { from, to, listed } = findCapabilities(configuration);
  const out = new ByteWriter().bytes(configuration.subarray(0, from));
  putCapabilities(out, change(listed));
  return out.bytes(configuration.subarray(to)).finish();
}

/** Where the capabilities stand, or would: behind the page bits and before the UUID. */
function findCapabilities(configuration: Uint8Array): { from: number; to: number; listed: string[] } {
  const view = viewOf(configuration);
  const nameAt = (at: number) =>
    decodeText(configuration.subarray(at + 1, at + 1 + view.getUint8(at)), "configuration");
  const isAt = (at: number, title: string) => configuration[at] === SECTION_SUBSECTION && nameAt(at + 1) === title;
  const bodyOf = (at: number, title: string) => at + 2 + title.length + 4;

  let from = 5 + view.getUint32(1);
  if (isAt(from, PAGE_BITS_SUBSECTION)) from = bodyOf(from, PAGE_BITS_SUBSECTION) + 4;
  const listed: string[] = [];
  if (!isAt(from, CAPABILITIES_SUBSECTION)) return { from, to: from, listed };
  let to = bodyOf(from, CAPABILITIES_SUBSECTION) + 4;
  for (let left = view.getUint32(to - 4); left > 0; left--) {
    listed.push(nameAt(to));
    to += 1 + view.getUint8(to);
  }
  return { from, to, listed };
}
