/**
 * Messages of Cloud Hypervisor's migration protocol: Request and Response.
 *
 * One ordered stream, and one request outstanding on it: the requester sends 16
 * bytes and what they announce, then waits for exactly one Response. There is
 * no other framing, so after a refused command nobody knows where the next
 * request begins: whoever answers Error closes.
 *
 * A Memory request's length counts its range table only, not the guest RAM
 * behind it. Everything is little-endian.
 * Source: Cloud Hypervisor 25.0 to 53.0, vm-migration/src/protocol.rs.
 */
import { ProtocolError } from "../errors.js";
import { layout } from "../layout.js";
import { reserved, u16le, u64le } from "../wire-fields.js";

/** What a source asks for, and in PageFault's case a destination. */
export const COMMAND = {
  invalid: 0,
  start: 1,
  config: 2,
  state: 3,
  memory: 4,
  complete: 5,
  abandon: 6,
  memoryFd: 7,
  completePaused: 8,
  pageFault: 9,
} as const;

export type CommandName = keyof typeof COMMAND;

export const STATUS = { invalid: 0, ok: 1, error: 2 } as const;

/** What an additional connection says first, from 53.0 on: 16 bits. */
export const CONNECTION_ROLE = { memory: 1, fault: 2 } as const;
export const CONNECTION_ROLE_BYTES = 2;

/** Header of every request; the payload follows. */
export const migrationRequest = layout(
  "Cloud Hypervisor request",
  {
    command: u16le,
    /** Of Start, from 53.0 on: the sender's version of the protocol. Zero in all others, and before. */
    version: u16le,
    reserved: reserved(4),
    payloadBytes: u64le, // wire: length
  },
  { size: 16 },
);

const migrationResponse = layout(
  "Cloud Hypervisor response",
  {
    status: u16le,
    reserved: reserved(6),
    /** Zero but in the answer to PageFault. */
    payloadBytes: u64le, // wire: length
  },
  { size: 16 },
);

export const REQUEST_BYTES = migrationRequest.size;
export const RESPONSE_BYTES = migrationResponse.size;
/** Slot number of a MemoryFd, a descriptor on it. */
export const MEMORY_FD_BYTES = 4;
/** What the text of the protocol says instead, and no release does. */
export const MEMORY_FD_TEXT_BYTES = 2;
export const PAGE_FAULT_BYTES = 16;

const names = new Map<number, CommandName>(
  (Object.keys(COMMAND) as CommandName[]).map((name) => [COMMAND[name], name]),
);

/** The command's name; null for a number that no release knows. */
export function commandName(command: number): CommandName | null {
  return names.get(command) ?? null;
}

export function encodeRequest(command: CommandName, payloadBytes = 0, version = 0): Uint8Array<ArrayBuffer> {
  return migrationRequest.encode({ command: COMMAND[command], version, payloadBytes });
}

export function encodeResponse(status: "ok" | "error", payloadBytes = 0): Uint8Array<ArrayBuffer> {
  return migrationResponse.encode({ status: STATUS[status], payloadBytes });
}

export function encodeConnectionRole(role: keyof typeof CONNECTION_ROLE): Uint8Array<ArrayBuffer> {
  return Uint8Array.of(CONNECTION_ROLE[role], 0);
}

/**
 * Reads a Response.
 *
 * @param payloadDue  Whether one may announce bytes: only the answer to PageFault does.
 * @returns The payload's bytes to come.
 * @throws {ProtocolError} PEER_REFUSED, for any status but Ok; RESPONSE_LENGTH.
 */
export function takeResponse(wire: Uint8Array, payloadDue: boolean): number {
  const { status, payloadBytes } = migrationResponse.decode(wire);
  if (status !== STATUS.ok) {
    const said = status === STATUS.error ? "Error" : `status ${status}`;
    throw new ProtocolError("PEER_REFUSED", `the destination answered ${said}; its own log says why`);
  }
  if (payloadBytes !== 0 && !payloadDue)
    throw new ProtocolError(
      "RESPONSE_LENGTH",
      `a response announces ${payloadBytes} bytes, none were due; the peer speaks another protocol`,
    );
  return payloadBytes;
}
