/**
 * Snapshot flags: the file that a guest is saved into, and its form.
 *
 * QEMU's own form is the default: a file that nothing but a QEMU is needed to restore.
 */
import type { DestinationGuest } from "@multifd/engine";
import { CompressedWriter, MappedRamWriter, type SnapshotForm } from "@multifd/peer-qemu";
import { type Command, Option } from "commander";
import { wholeNumber } from "./option-values.js";

export type SnapshotFlags = {
  readonly form?: SnapshotForm;
  readonly formLevel: number;
};

/** @param formDefault  In words, where the form is not named. */
export function addSnapshotFlags(command: Command, formDefault: string): Command {
  return command
    .addOption(
      new Option(
        "--form <form>",
        `what the snapshot is written as: mapped-ram, which QEMU 9.0 and later load by themselves, or compressed, smaller and under checksums (default: ${formDefault})`,
      ).choices(["mapped-ram", "compressed"]),
    )
    .addOption(
      new Option("--form-level <level>", "zstd level of a compressed snapshot")
        .argParser(wholeNumber(1, 20))
        .default(1),
    );
}

/** The guest that becomes the file `path`. */
export function snapshotWriter(path: string, form: SnapshotForm, level: number): DestinationGuest {
  return form === "compressed" ? new CompressedWriter(path, level) : new MappedRamWriter(path);
}
