/**
 * Variants: who migrates to whom. To measure another pair, add a line.
 */
import type { QemuVersion } from "@multifd/test/peers";
import { type Codec, UNCOMPRESSED } from "./codecs.js";
import type { DestinationKind } from "./destinations.js";
import type { SourceJob, SourceProgram } from "./endpoint.js";
import { multifdSource, multifdSourceWith } from "./multifd-endpoint.js";
import { qemuSource } from "./qemu-endpoint.js";
import { rawSource } from "./raw-endpoint.js";

/** What a variant is compared as, whatever QEMU's version: QEMU on its own, and the least that has to be done. */
export type Role = "qemu" | "ceiling" | "ours" | "other";

export type Variant = {
  readonly name: string;
  readonly role: Role;
  readonly source: SourceProgram;
  readonly destination: DestinationKind;
  readonly speaks: (codec: Codec) => boolean;
  /** Whether the source maps the image and reads its holes, which then take memory. */
  readonly fillsImage: boolean;
  /** Whether a QEMU has to be here, or at the destination. */
  readonly needsQemu: { readonly here: boolean; readonly there: boolean };
};

/** @param only  Texts, one of which must be in the name; none for every variant. */
export function isWanted(name: string, only: readonly string[]): boolean {
  return only.length === 0 || only.some((text) => name.includes(text));
}

const everyCodec = () => true;
const qemusCodecs = ({ qemu }: Codec) => qemu !== null;
const uncompressed = ({ method }: Codec) => method === UNCOMPRESSED;

const nowhere = { here: false, there: false };

/** @param devices  Gives a device part of that QEMU with the job's RAM, for our source to bring. */
export function variantsWith(version: QemuVersion, devices: (job: SourceJob) => string): readonly Variant[] {
  const qemu = `QEMU ${version}`;
  return [
    {
      name: `${qemu} → ${qemu}`,
      role: "qemu",
      source: qemuSource(version),
      destination: "qemu",
      speaks: qemusCodecs,
      fillsImage: true,
      needsQemu: { here: true, there: true },
    },
    {
      name: `${qemu} → multifd`,
      role: "other",
      source: qemuSource(version),
      destination: "multifd",
      speaks: qemusCodecs,
      fillsImage: true,
      needsQemu: { here: true, there: false },
    },
    {
      name: `multifd → ${qemu}`,
      role: "other",
      source: multifdSourceWith(devices),
      destination: "qemu",
      speaks: qemusCodecs,
      fillsImage: false,
      needsQemu: { here: true, there: true },
    },
    {
      name: "multifd → multifd",
      role: "ours",
      source: multifdSource,
      destination: "multifd",
      speaks: everyCodec,
      fillsImage: false,
      needsQemu: nowhere,
    },
    raw("raw ceiling, recv", "other", "mapping", "raw-mapping"),
    raw("raw ceiling, pwrite", "ceiling", "mapping", "raw-file"),
    raw("raw ceiling, pread, UFFDIO_COPY", "other", "file", "raw-fresh"),
  ];
}

function raw(name: string, role: Role, through: "mapping" | "file", destination: DestinationKind): Variant {
  return {
    name,
    role,
    source: rawSource(through),
    destination,
    speaks: uncompressed,
    fillsImage: through === "mapping",
    needsQemu: nowhere,
  };
}
