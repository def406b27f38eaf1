/**
 * Which peers are installed, and which version each says it is.
 *
 * On the PATH, and in the checkout's `.peers/` tree, whose programs need the C
 * library they were built for and are started through that tree's own loader.
 */
import { execFile } from "node:child_process";
import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { type Finding, found, missing } from "./findings.js";

const VERSION_MS = 10_000;
const FORKY = fileURLToPath(new URL("../../../../.peers/forky", import.meta.url));

type PeerProgram = { readonly name: string; readonly path: string; readonly remedy: string };

const PEERS: readonly PeerProgram[] = [
  { name: "QEMU", path: "qemu-system-x86_64", remedy: "install qemu-system-x86" },
  { name: "QEMU in .peers", path: `${FORKY}/usr/bin/qemu-system-x86_64`, remedy: "npm test installs it" },
  { name: "virtiofsd", path: "virtiofsd", remedy: "install virtiofsd" },
  { name: "virtiofsd in .peers", path: `${FORKY}/usr/libexec/virtiofsd`, remedy: "npm test installs it" },
  { name: "qemu-storage-daemon", path: "qemu-storage-daemon", remedy: "install qemu-utils" },
];

/** Peers are for tests and for talking to; none is needed to migrate. */
export function examinePeers(): Promise<Finding[]> {
  return Promise.all(PEERS.map(examine));
}

async function examine({ name, path, remedy }: PeerProgram): Promise<Finding> {
  try {
    const [program, words] = startLine(path);
    const { stdout } = await promisify(execFile)(program, [...words, "--version"], { timeout: VERSION_MS });
    return found(name, stdout.split("\n", 1)[0]!.trim());
  } catch (error) {
    const absent = (error as NodeJS.ErrnoException).code === "ENOENT";
    return missing(
      name,
      absent ? "not installed" : `does not start: ${(error as Error).message.split("\n", 1)[0]}`,
      remedy,
    );
  }
}

/** @throws ENOENT-like where a program of the tree is not there, as execFile does for the others. */
function startLine(path: string): [program: string, words: string[]] {
  if (!path.startsWith(FORKY)) return [path, []];
  if (!existsSync(path)) throw Object.assign(new Error(`${path} is not there`), { code: "ENOENT" });
  const triplet = process.arch === "arm64" ? "aarch64-linux-gnu" : "x86_64-linux-gnu";
  const loader = process.arch === "arm64" ? "lib/ld-linux-aarch64.so.1" : "lib64/ld-linux-x86-64.so.2";
  const libraries = `${FORKY}/lib/${triplet}:${FORKY}/usr/lib/${triplet}`;
  return [`${FORKY}/${loader}`, ["--library-path", libraries, path]];
}
