/**
 * Shared RAM: the RAM blocks of a QEMU that lie in files which others can map, and those files, open.
 *
 * A block bears the name of its memory backend. The backend says that it is shared, how long
 * it is and, if the file has a name, which; the file itself is taken from QEMU's own descriptors
 * (/proc/PID/fd), so that one that was removed, has no name (memfd), or lies in another mount
 * namespace is found all the same. Everything else a QEMU has in RAM (firmware, video memory)
 * goes with its devices; so a block of the size of a guest that nobody shares is refused.
 *
 * Owns the descriptors. Source: QEMU 7.2 and 11.1, backends/hostmem-file.c; migration/ram.c, ramblock_is_ignored().
 */
import { closeSync, fstatSync, openSync, readdirSync, readFileSync, readlinkSync, statSync } from "node:fs";
import { describeRamBlock, type RamBlock } from "@multifd/memory";
import { ConfigError, MigrationError, SystemError } from "@multifd/protocol";
import type { QemuFacts } from "../drive/qemu-facts.js";
import { toCount, toList, toText } from "../drive/qmp-answer.js";
import type { QmpClient } from "../qmp-client.js";

export type SharedBlock = {
  readonly block: RamBlock;
  /** Where the block begins in its file. */
  readonly offsetBytes: number;
  readonly descriptor: number;
  /** For messages and for whoever opens it anew: the file under QEMU's own descriptor. */
  readonly path: string;
};

export type SharedRam = { readonly pid: number; readonly blocks: readonly SharedBlock[]; close(): void };

/** x86; a target page, in which QEMU counts. */
const PAGE_BYTES = 4096;
/** Larger than the video memory that a device has of its own, as a rule; what QEMU sends itself costs downtime. */
const PRIVATE_BYTES_MAX = 64 * 2 ** 20;
const REMEDY =
  "start it with -object memory-backend-file,id=ram,size=…,mem-path=/dev/shm/…,share=on -machine …,memory-backend=ram";

type Backend = { readonly name: string; readonly bytes: number; readonly shared: boolean };

/**
 * The process of a QEMU that runs on this machine.
 *
 * @throws {ConfigError} QEMU_PID, where it cannot be told, as from another process namespace.
 */
export async function findQemuPid(qmp: QmpClient): Promise<number> {
  const [cpu] = toList(await qmp.execute("query-cpus-fast"), "query-cpus-fast");
  const thread = cpu === undefined ? 0 : toCount(cpu["thread-id"], "query-cpus-fast");
  try {
    const pid = /^Tgid:\s+(\d+)$/m.exec(readFileSync(`/proc/${thread}/status`, "latin1"))?.[1];
    if (pid !== undefined) return Number(pid);
  } catch {
    // No such process here: told below.
  }
  throw new ConfigError(
    "QEMU_PID",
    `QEMU says that its processor is thread ${thread}, which is none of this machine's; run this command where QEMU runs, or name its process with --pid`,
  );
}

/**
 * Finds and opens a QEMU's shared RAM.
 *
 * @param access  `r+` for a destination.
 * @param paths   Files by block name, for blocks whose file QEMU's descriptors may not be asked for.
 * @throws {ConfigError} RAM_PRIVATE, RAM_FILE; {SystemError} where a file cannot be opened.
 */
export async function openSharedRam(
  qmp: QmpClient,
  facts: QemuFacts,
  pid: number,
  access: "r" | "r+",
  paths: ReadonlyMap<string, string>,
): Promise<SharedRam> {
  const backends = await queryBackends(qmp);
  const used = backends.filter(({ name }) => facts.ramBlocks.some((block) => block.name === name));
  checkShared(used, facts);
  for (const name of paths.keys()) {
    if (used.some((backend) => backend.name === name)) continue;
    const known = used.map((backend) => `"${backend.name}"`).join(", ");
    throw new ConfigError("RAM_BLOCK_UNKNOWN", `this QEMU shares no RAM block "${name}"; it shares ${known}`);
  }
  const blocks: SharedBlock[] = [];
  const close = () => {
    for (const { descriptor } of blocks.splice(0)) closeSync(descriptor);
  };
  const ram = { pid, blocks, close };
  try {
    for (const backend of used)
      blocks.push(await openBackend(qmp, facts, pid, backend, access, paths.get(backend.name)));
    return ram;
  } catch (error) {
    ram.close();
    throw error;
  }
}

async function queryBackends(qmp: QmpClient): Promise<readonly Backend[]> {
  const answer = toList(await qmp.execute("query-memdev"), "query-memdev");
  return answer
    .map(({ id, size, share }) => ({
      name: id === undefined ? "" : toText(id, "query-memdev"),
      bytes: toCount(size, "query-memdev"),
      shared: share === true,
    }))
    .sort((a, b) => (a.name < b.name ? -1 : 1));
}

function checkShared(used: readonly Backend[], facts: QemuFacts): void {
  const alone = used.find(({ shared }) => !shared);
  const names = new Set(used.map(({ name }) => name));
  const large = facts.ramBlocks.find(({ name, usedBytes }) => !names.has(name) && usedBytes > PRIVATE_BYTES_MAX);
  const name = alone?.name ?? large?.name;
  if (name === undefined && used.length > 0) return;
  throw new ConfigError(
    "RAM_PRIVATE",
    `this QEMU's RAM${name === undefined ? "" : ` block "${name}"`} is its own, and nobody else can read or write it; ${REMEDY}`,
  );
}

async function openBackend(
  qmp: QmpClient,
  facts: QemuFacts,
  pid: number,
  { name, bytes }: Backend,
  access: "r" | "r+",
  given: string | undefined,
): Promise<SharedBlock> {
  const block = describeRamBlock(name, bytes, PAGE_BYTES);
  if (block === null) throw new ConfigError("RAM_SIZE", `RAM block "${name}" has ${bytes} bytes, no whole pages`);
  const named = await property(qmp, name, "mem-path");
  if (named === null && (facts.release.major > 8 || (facts.release.major === 8 && facts.release.minor >= 1))) {
    throw new ConfigError(
      "RAM_FILE",
      `RAM block "${name}" lies in a memfd, which a QEMU from 8.1 on does not leave out of its own stream (x-ignore-shared takes named files only); ${REMEDY}`,
    );
  }
  const path = given ?? findFile(pid, block, named as string | null);
  const offset = await property(qmp, name, "offset");
  try {
    const descriptor = openSync(path, access);
    const offsetBytes = typeof offset === "number" ? offset : 0;
    if (fstatSync(descriptor).size >= offsetBytes + bytes) return { block, offsetBytes, descriptor, path };
    closeSync(descriptor);
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    throw new SystemError(
      `SYSTEM_${code ?? "ERROR"}`,
      `RAM block "${name}": ${message}; run as QEMU's user or as root`,
    );
  }
  throw new ConfigError("RAM_FILE", `RAM block "${name}": its file is shorter than ${bytes} bytes`);
}

/** A property of a backend; null where it has none by that name. */
async function property(qmp: QmpClient, backend: string, name: string): Promise<unknown> {
  try {
    return await qmp.execute("qom-get", { path: `/objects/${backend}`, property: name });
  } catch (error) {
    if (error instanceof MigrationError && error.code === "QMP_COMMAND_FAILED") return null;
    throw error;
  }
}

/** @returns The file's path under QEMU's own descriptor. */
function findFile(pid: number, { name, lengthBytes }: RamBlock, named: string | null): string {
  const folder = `/proc/${pid}/fd`;
  const found = new Map<string, string>();
  for (const number of listFolder(folder)) {
    const path = `${folder}/${number}`;
    const file = look(path);
    if (file === null || !isFileOf(file.target, named, `/proc/${pid}/root`, file.inode)) continue;
    if (named !== null || file.bytes === lengthBytes) found.set(file.inode, path);
  }
  const paths = [...found.values()];
  if (paths.length === 1) return paths[0]!;
  throw new ConfigError(
    "RAM_FILE",
    paths.length === 0
      ? `RAM block "${name}": process ${pid} has no such file open (${named ?? "a memfd"}); is that the process of this QEMU?`
      : `RAM block "${name}": process ${pid} has ${paths.length} such files open (${named ?? `memfds of ${lengthBytes} bytes`}), and they cannot be told apart; give each backend a file of its own (mem-path)`,
  );
}

function isFileOf(target: string, named: string | null, root: string, inode: string): boolean {
  if (named === null) return target.startsWith("/memfd:");
  const plain = target.replace(/ \(deleted\)$/, "");
  if (plain === named || plain.startsWith(`${named.replace(/\/$/, "")}/`)) return true;
  try {
    const { dev, ino } = statSync(root + named);
    return inode === `${dev}:${ino}`; // by another name, as through a symbolic link
  } catch {
    return false;
  }
}

function look(path: string): { readonly target: string; readonly inode: string; readonly bytes: number } | null {
  try {
    const stat = statSync(path);
    if (!stat.isFile()) return null;
    return { target: readlinkSync(path), inode: `${stat.dev}:${stat.ino}`, bytes: stat.size };
  } catch {
    return null; // closed meanwhile
  }
}

function listFolder(path: string): readonly string[] {
  try {
    return readdirSync(path);
  } catch (cause) {
    const { code, message } = cause as NodeJS.ErrnoException;
    throw new SystemError(
      `SYSTEM_${code ?? "ERROR"}`,
      `QEMU's descriptors: ${message}; run as QEMU's user or as root`,
      {
        cause,
      },
    );
  }
}
