/**
 * Eras: what Cloud Hypervisor's releases do differently on the wire, as data.
 *
 * The protocol's bytes have hardly changed and carry no version before 53.0;
 * what a source does and what a destination expects has. Whoever talks to one
 * asks this table, and nothing else, what that release does.
 * Source: Cloud Hypervisor 0.12 to 53.0 and its main branch of August 2026, vmm/src/lib.rs and
 * vm-migration/src/protocol.rs.
 */
import { ConfigError } from "../errors.js";
import { COMMAND, type CommandName } from "./message.js";

/** Named by the first release of each. `next` is what followed 53.0. */
export type EraName = "v12" | "v21" | "v43" | "v50" | "v52" | "v53" | "next";

export type Era = {
  readonly name: EraName;
  /** All of its releases, for messages. */
  readonly releases: string;
  /** The commands that its destination knows end with this one. */
  readonly lastCommand: CommandName;
  /** Whether it speaks tcp beside unix. */
  readonly tcp: boolean;
  /** Passes over RAM while the guest runs: so many, unless one finds nothing; or until they converge. */
  readonly passes: { readonly kind: "at-most"; readonly passes: number } | { readonly kind: "until-converged" };
  /** The first pass leaves out what a RAM file has no storage for; it reads as zero at the destination. */
  readonly sparseFirstPass: boolean;
  /** Additional connections for memory: none, with nothing said first, or with a role said first. */
  readonly connections: "none" | "bare" | "with-role";
  readonly tls: boolean;
  readonly pageFaults: boolean;
  /** What a source does when it has been refused. */
  readonly abandonAfterRefusal: "answer-ignored" | "answer-required" | "never";
  /** Whether Start's header bears the protocol's version, which its destination checks. */
  readonly versionInStart: boolean;
};

const v12: Era = {
  name: "v12",
  releases: "v0.12 to v20",
  lastCommand: "abandon",
  tcp: false,
  passes: { kind: "at-most", passes: 5 },
  sparseFirstPass: false,
  connections: "none",
  tls: false,
  pageFaults: false,
  abandonAfterRefusal: "answer-ignored",
  versionInStart: false,
};
const v21: Era = { ...v12, name: "v21", releases: "v21 to v42", lastCommand: "memoryFd" };
const v43: Era = { ...v21, name: "v43", releases: "v43 to v49", tcp: true };
const v50: Era = { ...v43, name: "v50", releases: "v50 and v51", abandonAfterRefusal: "answer-required" };
const v52: Era = {
  ...v50,
  name: "v52",
  releases: "v52",
  lastCommand: "completePaused",
  passes: { kind: "until-converged" },
  connections: "bare",
};
const v53: Era = {
  ...v52,
  name: "v53",
  releases: "v53",
  lastCommand: "pageFault",
  connections: "with-role",
  tls: true,
  pageFaults: true,
  abandonAfterRefusal: "never",
  versionInStart: true,
};
const next: Era = { ...v53, name: "next", releases: "after v53", sparseFirstPass: true };

export const ERAS: Readonly<Record<EraName, Era>> = { v12, v21, v43, v50, v52, v53, next };

/** The protocol's version that 53.0 introduced; its bytes are those of every release before. */
export const PROTOCOL_VERSION = 0;
/** Additional connections at most, from 52.0 on; more make a destination fail the migration. */
export const CONNECTIONS_MAX = 128;

/** Whether a destination of that era knows the command at all. */
export function knowsCommand(era: Era, command: CommandName): boolean {
  return command !== "invalid" && COMMAND[command] <= COMMAND[era.lastCommand];
}

/** Whether a destination of that era takes a source of that version: its own, or the one before. */
export function takesVersion(era: Era, version: number): boolean {
  return !era.versionInStart || version === PROTOCOL_VERSION || version === PROTOCOL_VERSION - 1;
}

/**
 * The era of a release, as an operator writes it: `v41.0`, `53`, `next`.
 *
 * @throws {ConfigError} CLOUD_HYPERVISOR_RELEASE.
 */
export function eraOfRelease(release: string): Era {
  if (release === "next") return ERAS.next;
  const match = /^v?(?:0\.)?(\d{1,3})(?:\.\d+)*$/.exec(release);
  const number = match === null ? 0 : Number(match[1]);
  const found = [v53, v52, v50, v43, v21, v12].find(({ name }) => number >= Number(name.slice(1)));
  if (found !== undefined) return found;
  throw new ConfigError(
    "CLOUD_HYPERVISOR_RELEASE",
    `"${release}" is no release of Cloud Hypervisor that migrates; write v0.12 or newer, such as v53, or "next"`,
  );
}
