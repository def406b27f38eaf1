/**
 * QEMU binary: where a QEMU of a wanted version is on this machine.
 *
 * 7.2 is the distribution's own, from the PATH. 11.1 lives in a tree of a newer
 * distribution under `.peers/forky` and runs on this machine's kernel through the
 * tree's own loader, so it needs neither chroot nor root. `test/peers/setup.sh`
 * installs both; a peer that is missing fails the test that asked, by name.
 */
import { execFileSync } from "node:child_process";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

export type QemuVersion = "7.2" | "11.1";

/** A program of a QEMU: run `command` with `args` before the arguments of your own. */
export type QemuBinary = { readonly version: QemuVersion; readonly command: string; readonly args: readonly string[] };

const FORKY = fileURLToPath(new URL("../../../.peers/forky", import.meta.url));
const found = new Map<QemuVersion, QemuBinary>();

/**
 * Finds `qemu-system-x86_64` of that version and asks it for its version once.
 *
 * @throws {Error} if it is missing or of another version; the message says how to install it.
 */
export function findQemu(version: QemuVersion): QemuBinary {
  const known = found.get(version);
  if (known) return known;
  const binary = version === "7.2" ? systemQemu() : forkyQemu();
  const says = askVersion(binary);
  if (!says.includes(`version ${version}.`)) {
    throw new Error(
      `peer QEMU ${version}: ${binary.command} answers "${says}"; install the peer with: sh test/peers/setup.sh`,
    );
  }
  found.set(version, binary);
  return binary;
}

function systemQemu(): QemuBinary {
  return { version: "7.2", command: "qemu-system-x86_64", args: [] };
}

function forkyQemu(): QemuBinary {
  const libraries = join(FORKY, "usr/lib/x86_64-linux-gnu");
  const firmware = ["qemu", "seabios"].flatMap((name) => ["-L", join(FORKY, "usr/share", name)]);
  return {
    version: "11.1",
    command: join(libraries, "ld-linux-x86-64.so.2"),
    args: ["--library-path", libraries, join(FORKY, "usr/bin/qemu-system-x86_64"), ...firmware],
  };
}

function askVersion(binary: QemuBinary): string {
  const missing = `peer QEMU ${binary.version} is not installed (${binary.command}); run: sh test/peers/setup.sh`;
  if (binary.command.startsWith("/") && !existsSync(binary.command)) throw new Error(missing);
  try {
    return execFileSync(binary.command, [...binary.args, "--version"], { encoding: "utf8" }).split("\n")[0] ?? "";
  } catch (cause) {
    throw new Error(missing, { cause });
  }
}
