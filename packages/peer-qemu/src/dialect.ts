/**
 * Dialect: what a QEMU destination expects of a stream, by its age.
 *
 * Nothing of it is negotiated, and each mistake makes the destination wait for
 * ever, lose zero pages, or refuse. Both ends derive it from the machine type's version, so we do
 * too; but a QEMU may have been told otherwise (`-global migration.…`), and some
 * machine types bear no version ("microvm"): those are taken for new, and the
 * operator overrides what is not so.
 *
 *   machine type              up to 8.0     8.1, 8.2      9.0 to 9.2    from 10.0
 *   sync                      per section   per round     per round     per round
 *   zero pages                on main       on main       in packets    in packets
 *   SWITCHOVER_START          no            no            no            yes
 *
 * Source: QEMU 10.2, hw/core/machine.c, hw_compat_8_0, hw_compat_8_2 and hw_compat_9_2.
 */
import { expectsSwitchoverStart, takesZeroPagesInPackets, usesPerRoundSync } from "@multifd/protocol";

export type Dialect = {
  /** What a SYNC on every channel pairs with: a FLUSH per round, or every RAM section's end. */
  readonly syncPer: "round" | "section";
  readonly zeroPages: "in-packets" | "on-main";
  /** Whether SWITCHOVER_START is said before the last RAM section. */
  readonly switchoverStart: boolean;
};

/** @param told  What is known better than from the machine type. */
export function dialectOf(machineType: string, told: Partial<Dialect>): Dialect {
  return {
    syncPer: usesPerRoundSync(machineType) ? "round" : "section",
    zeroPages: takesZeroPagesInPackets(machineType) ? "in-packets" : "on-main",
    switchoverStart: expectsSwitchoverStart(machineType),
    ...told,
  };
}
