/**
 * Adjusted options: a QEMU's command line, changed so that a second QEMU waits beside it, or elsewhere, for its guest.
 *
 *   -incoming …, -loadvm …, -daemonize   left out; `-incoming defer` and a monitor of our own put in
 *   memory-backend-file,mem-path=…       RAM files of its own
 *   what the caller replaces             sockets, ports, files, wherever they stand
 *   server sockets                       do not wait for anybody to connect
 *
 * Everything else stays, for a guest needs the same devices in the same places. What two QEMUs cannot both have is
 * refused by name; of TCP ports and locked files QEMU itself says so when it starts.
 *
 * Source: QEMU 7.2 and 11.1, qemu-options.hx.
 */
import { ConfigError } from "@multifd/protocol";
import type { HostView } from "./host-view.js";
import { partOf, type QemuOption, showOption, splitValue } from "./qemu-options.js";

export type OptionTerms = {
  /** Where QEMU dials for its monitor. */
  readonly monitor: string;
  /** RAM files by the id of the memory backend. */
  readonly ramFiles: ReadonlyMap<string, string>;
  /** Text by text, where it stands between separators. */
  readonly replacements: ReadonlyMap<string, string>;
  /** The source's, versioned: an alias (`pc`) means another one to another QEMU. Null leaves what is there. */
  readonly machineType: string | null;
};

export type AdjustedOptions = {
  readonly options: readonly QemuOption[];
  /** A sentence each, for people. */
  readonly changes: readonly string[];
};

const LEFT_OUT: Readonly<Record<string, string>> = {
  incoming: "it waits for this guest instead",
  loadvm: "its guest comes from the source",
  daemonize: "it is started in the background anyway",
};
/** Options whose value may name a character device. */
const CHARACTER_DEVICES = new Set(["qmp", "qmp-pretty", "monitor", "serial", "parallel", "debugcon", "gdb", "chardev"]);
const HANDED_OVER = /(^|[,"])(fd|fds|vhostfd|vhostfds|fdset)"?[=:]|\/dev\/fdset\//;
/** Options whose value is free text, in which nothing is looked for. */
const FREE_TEXT = new Set(["append", "name", "fw_cfg"]);

/**
 * @throws {ConfigError} LINE_UNFIT, SOCKET_IN_USE, FILE_IN_USE, RAM_FILE_IN_USE, RAM_BLOCK_UNKNOWN, REPLACEMENT_UNUSED.
 */
export function adjustOptions(given: readonly QemuOption[], terms: OptionTerms, host: HostView): AdjustedOptions {
  const changes: string[] = [];
  const replaced = replace(given, terms.replacements);
  const kept = replaced.filter((option) => {
    const reason = LEFT_OUT[option.name ?? ""];
    if (reason !== undefined) changes.push(`${showOption(option)} is left out: ${reason}`);
    return reason === undefined;
  });
  for (const option of kept) refuseUnfit(option, host);
  const placed = placeRam(kept, terms.ramFiles, host, changes);
  const options = nameMachine(placed.map(withoutWaiting), terms.machineType, changes);
  const own = [
    { name: "incoming", value: "defer" },
    { name: "qmp", value: `unix:${terms.monitor.replaceAll(",", ",,")}` },
  ];
  return { options: [...options, ...own], changes };
}

function replace(options: readonly QemuOption[], replacements: ReadonlyMap<string, string>): readonly QemuOption[] {
  const unused = new Set(replacements.keys());
  const replaced = options.map(({ name, value }) => {
    let now = value;
    for (const [old, by] of replacements) {
      if (now === null || !now.includes(old)) continue;
      const whole = new RegExp(`(?<=^|[,=:"])${old.replace(/[.*+?^${}()|[\]\\]/g, "\\$&")}(?=$|[,"])`, "g");
      const next = now.replace(whole, () => by);
      if (next !== now) unused.delete(old);
      now = next;
    }
    return { name, value: now };
  });
  const [first] = unused;
  if (first === undefined) return replaced;
  throw new ConfigError(
    "REPLACEMENT_UNUSED",
    `"${first}" is to be replaced and does not stand in QEMU's command line, between separators (start, comma, "=", ":")`,
  );
}

function refuseUnfit(option: QemuOption, host: HostView): void {
  const { name, value } = option;
  const shown = showOption(option);
  if (name === "preconfig" || name === "add-fd" || (!FREE_TEXT.has(name ?? "") && HANDED_OVER.test(value ?? ""))) {
    throw new ConfigError(
      "LINE_UNFIT",
      `"${shown}" needs whoever started the source's QEMU, who gave it open descriptors or commands; start this one by hand, or have them do it (--qmp)`,
    );
  }
  if (name === null || value === null) return;
  const socket = serverSocket(name, value);
  if (socket !== null && host.isBound(socket)) {
    throw new ConfigError(
      "SOCKET_IN_USE",
      `"${shown}": the socket is in use here, and a second QEMU would take it away; give this one another (--replace ${socket}=PATH)`,
    );
  }
  const file = outputFile(name, value);
  if (file !== null && host.isFile(file)) {
    throw new ConfigError(
      "FILE_IN_USE",
      `"${shown}": the file is there already, and would be emptied; give this QEMU another (--replace ${file}=PATH), or remove it`,
    );
  }
}

/** The unix socket that an option has QEMU listen on. */
function serverSocket(name: string, value: string): string | null {
  const [head = "", ...parts] = splitValue(value);
  const unix = /^(?:mon:)?unix:(.+)$/.exec(head)?.[1]?.replaceAll(",,", ",");
  if (name === "vnc") return unix ?? null;
  if (name === "spice") return parts.includes("unix=on") || head === "unix=on" ? (partOf(value, "addr") ?? null) : null;
  if (!isServer(value)) return null;
  return unix ?? partOf(value, "path") ?? partOf(value, "addr.path") ?? null;
}

function isServer(value: string): boolean {
  return splitValue(value).some((part) => part === "server" || part === "server=on");
}

function outputFile(name: string, value: string): string | null {
  if (name === "D") return value;
  if (!CHARACTER_DEVICES.has(name)) return null;
  if (partOf(value, "logfile") !== undefined && partOf(value, "logappend") !== "on") return partOf(value, "logfile")!;
  if (partOf(value, "append") === "on") return null;
  const [head = ""] = splitValue(value);
  const file = /^(?:mon:)?file:(.+)$/.exec(head)?.[1]?.replaceAll(",,", ",");
  if (file !== undefined) return file;
  return name === "chardev" && head === "file" ? (partOf(value, "path") ?? null) : null;
}

/** A server that waits for a first connection would keep QEMU from starting. */
function withoutWaiting(option: QemuOption): QemuOption {
  const { name, value } = option;
  if (name === null || value === null || !CHARACTER_DEVICES.has(name) || !isServer(value)) return option;
  const parts = splitValue(value).filter((part) => !/^(no)?wait(=|$)/.test(part));
  const wait = parts.includes("server") ? "nowait" : "wait=off";
  return { name, value: [...parts, wait].join(",") };
}

/** A memory backend in a file, as either way of writing it tells. */
type Backend = { readonly id: string; readonly path: string; moveTo(path: string): string };

function readBackend({ name, value }: QemuOption): Backend | null {
  if (name !== "object" || value === null) return null;
  if (value.startsWith("{")) return readJsonBackend(value);
  const [type, ...parts] = splitValue(value);
  const path = partOf(value, "mem-path");
  const id = partOf(value, "id");
  if (!/^(qom-type=)?memory-backend-file$/.test(type ?? "") || path === undefined || id === undefined) return null;
  const moveTo = (to: string) =>
    [type, ...parts.map((part) => (part.startsWith("mem-path=") ? `mem-path=${to.replaceAll(",", ",,")}` : part))].join(
      ",",
    );
  return { id, path, moveTo };
}

function readJsonBackend(value: string): Backend | null {
  let fields: Record<string, unknown>;
  try {
    fields = JSON.parse(value) as Record<string, unknown>;
  } catch {
    return null; // QEMU will say so
  }
  const { "qom-type": type, id, "mem-path": path } = fields;
  if (type !== "memory-backend-file" || typeof id !== "string" || typeof path !== "string") return null;
  return { id, path, moveTo: (to) => JSON.stringify({ ...fields, "mem-path": to }) };
}

function placeRam(
  options: readonly QemuOption[],
  files: ReadonlyMap<string, string>,
  host: HostView,
  changes: string[],
): readonly QemuOption[] {
  const known: string[] = [];
  const placed = options.map((option) => {
    const backend = readBackend(option);
    if (backend === null) return option;
    const { id, path } = backend;
    known.push(id);
    const own = files.get(id);
    if (own !== undefined) {
      changes.push(`RAM block "${id}" lies in ${own} instead of ${path}`);
      return { name: option.name, value: backend.moveTo(own) };
    }
    if (!host.isFile(path)) return option;
    throw new ConfigError(
      "RAM_FILE_IN_USE",
      `RAM block "${id}": its file ${path} is there already; give this QEMU one of its own (--ram ${id}=PATH)`,
    );
  });
  const unknown = [...files.keys()].find((id) => !known.includes(id));
  if (unknown === undefined) return placed;
  throw new ConfigError(
    "RAM_BLOCK_UNKNOWN",
    `the command line has no memory-backend-file "${unknown}"; it has ${known.map((id) => `"${id}"`).join(", ") || "none: start the source with one, and share=on"}`,
  );
}

function nameMachine(
  options: readonly QemuOption[],
  machineType: string | null,
  changes: string[],
): readonly QemuOption[] {
  if (machineType === null) return options;
  let named = false;
  const result = options.map((option) => {
    const { name, value } = option;
    if ((name !== "machine" && name !== "M") || value === null) return option;
    const parts = splitValue(value);
    const at = parts.findIndex((part, index) => part.startsWith("type=") || (index === 0 && !part.includes("=")));
    if (at < 0) return option;
    named = true;
    if (parts[at]!.replace("type=", "") === machineType) return option;
    changes.push(`the machine ${parts[at]} is called ${machineType}, as the source knows it`);
    parts[at] = `type=${machineType}`;
    return { name, value: parts.join(",") };
  });
  if (named) return result;
  changes.push(`the machine is called ${machineType}, as the source knows it`);
  return [...result, { name: "machine", value: `type=${machineType}` }];
}
