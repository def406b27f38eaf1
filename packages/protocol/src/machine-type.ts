/**
 * Machine types: what a versioned machine type says about the stream.
 *
 * The stream never bears QEMU's version, but a machine type such as
 * "pc-q35-8.1" pins the behaviour of both ends to that release. Unversioned
 * names ("pc", "microvm") and distributions' own ("pc-q35-rhel9.4.0") do not
 * tell; they are taken for new, which the set-up section can still correct
 * where we receive, and the operator where we send.
 *
 * Source: QEMU 10.2, hw/core/machine.c, hw_compat_8_0, hw_compat_8_2 and hw_compat_9_2.
 */

export type MachineVersion = { readonly major: number; readonly minor: number };

/** The QEMU release that a machine type imitates; null if its name does not tell. */
export function machineTypeVersion(machineType: string): MachineVersion | null {
  const match = /-(\d{1,4})\.(\d{1,4})$/.exec(machineType);
  return match && { major: Number(match[1]), minor: Number(match[2]) };
}

/** True if channels sync once per round (FLUSH), false if at every RAM section's end. */
export function usesPerRoundSync(machineType: string): boolean {
  return isAtLeast(machineType, 8, 1);
}

/** True if RAM packets may name zero pages, false if they must go as records on the main channel. */
export function takesZeroPagesInPackets(machineType: string): boolean {
  return isAtLeast(machineType, 9, 0);
}

/** True if the source says SWITCHOVER_START before its last RAM section, false if the command is unknown there. */
export function expectsSwitchoverStart(machineType: string): boolean {
  return isAtLeast(machineType, 10, 0);
}

function isAtLeast(machineType: string, major: number, minor: number): boolean {
  const version = machineTypeVersion(machineType);
  if (version === null) return true;
  return version.major > major || (version.major === major && version.minor >= minor);
}
