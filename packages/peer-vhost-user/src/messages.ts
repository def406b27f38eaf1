/**
 * vhost-user messages: the header, the payloads, and what each request bears.
 *
 * Every message is a 12-byte header and a payload, in the host's byte order,
 * which is little-endian wherever this runs; descriptors ride on the header's first byte.
 *
 *   request   flags 0x1, or 0x9 where an acknowledgement is asked for
 *   reply     the request's number, flags 0x5; libvhost-user answers 0xd where
 *             an acknowledgement was asked for on top
 *
 * Sizes here are form only: whether an address makes sense is for whoever maps memory.
 * Source: QEMU 11.1, docs/interop/vhost-user.rst, "Message Specification".
 */

import { bits64le, layout, ProtocolError, reserved, u16le, u32le, u64le } from "@multifd/protocol";

export const vhostUserHeader = layout("vhost-user header", { id: u32le, flags: u32le, bytes: u32le }, { size: 12 });

/** No payload of ours is longer, and rust-vmm takes no more. */
export const VHOST_USER_PAYLOAD_MAX = 4096;
/** What a memory table carries, and the most descriptors that any message may. */
export const VHOST_USER_REGIONS_MAX = 8;

const VERSION = 1;
const VERSION_MASK = 3;
const REPLY = 4;
const NEED_REPLY = 8;

/** u64 payload: features, descriptors of rings, acknowledgements, MAC addresses. */
const vhostUserNumber = layout("vhost-user number", { value: bits64le }, { size: 8 });
/** The payload of requests that have none. */
export const NO_PAYLOAD = new Uint8Array(0);

export function encodeNumber(value: bigint): Uint8Array<ArrayBuffer> {
  return vhostUserNumber.encode({ value });
}

export function decodeNumber(payload: Uint8Array): bigint {
  return vhostUserNumber.decode(payload).value;
}

/** Index of a ring and a number: its size, its base, whether it is enabled. */
export const vringState = layout("vhost-user vring state", { index: u32le, value: u32le }, { size: 8 });
export const vringAddress = layout(
  "vhost-user vring address",
  {
    index: u32le,
    flags: u32le, // bit 0: writes to the used ring are logged
    descriptors: u64le,
    used: u64le, // before `available`, unlike in every other place
    available: u64le,
    logAddress: u64le, // guest-physical address of the used ring
  },
  { size: 40 },
);
export const memoryTableHead = layout("vhost-user memory table", { regions: u32le, pad: reserved(4) }, { size: 8 });
export const memoryRegion = layout(
  "vhost-user memory region",
  { guestAddress: u64le, lengthBytes: u64le, userAddress: u64le, offsetBytes: u64le },
  { size: 32 },
);
export const singleRegionPad = layout("vhost-user single region", { pad: reserved(8) }, { size: 8 });
export const logDescription = layout("vhost-user log", { lengthBytes: u64le, offsetBytes: u64le }, { size: 16 });
export const configHead = layout("vhost-user config", { offset: u32le, bytes: u32le, flags: u32le }, { size: 12 });
export const inflightDescription = layout(
  "vhost-user inflight",
  { lengthBytes: u64le, offsetBytes: u64le, queues: u16le, queueSize: u16le, pad: reserved(4) },
  { size: 24 },
);
export const deviceStateDirection = layout("vhost-user device state", { direction: u32le, phase: u32le }, { size: 8 });

/** `direction` of a device-state transfer, seen from the back-end. */
export const stateDirection = { save: 0, load: 1 } as const;
/** `phase` of one: the rings are stopped. There is no other. */
export const STATE_PHASE_STOPPED = 0;

/** Bit 0 of a ring's address flags. */
export const VRING_LOGGED = 1;
/** Bits 0…7 of a ring's descriptor number, and the bit that says that no descriptor came. */
export const VRING_INDEX_MASK = 0xffn;
export const VRING_NO_DESCRIPTOR = 0x100n;

export type Span = readonly [min: number, max: number];

export type RequestShape = {
  readonly id: number;
  /** Bytes of the request's payload. */
  readonly bytes: Span;
  /** Descriptors beside it. */
  readonly descriptors: Span;
  /** Bytes of its own reply; null: acknowledged when asked, else unanswered. */
  readonly reply: Span | null;
  readonly replyDescriptors: Span;
};

const none: Span = [0, 0];
const one: Span = [1, 1];
const maybe: Span = [0, 1];
const anything: Span = [0, VHOST_USER_PAYLOAD_MAX];

function shape(id: number, bytes: Span, descriptors: Span = none): RequestShape {
  return { id, bytes, descriptors, reply: null, replyDescriptors: none };
}

function answered(
  id: number,
  bytes: Span,
  reply: Span,
  descriptors: Span = none,
  replyDescriptors: Span = none,
): RequestShape {
  return { id, bytes, descriptors, reply, replyDescriptors };
}

const eight: Span = [8, 8];

/** What a front-end may ask. */
export const vhostUserRequests = {
  GET_FEATURES: answered(1, none, eight),
  SET_FEATURES: shape(2, eight),
  SET_OWNER: shape(3, none),
  SET_MEM_TABLE: shape(5, [8, 8 + 32 * VHOST_USER_REGIONS_MAX], [0, VHOST_USER_REGIONS_MAX]),
  // Echoes of 8 and 16 bytes were seen, and nothing at all: any reply means done.
  SET_LOG_BASE: answered(6, [16, 16], anything, one),
  SET_LOG_FD: shape(7, none, one),
  SET_VRING_NUM: shape(8, eight),
  SET_VRING_ADDR: shape(9, [40, 40]),
  SET_VRING_BASE: shape(10, eight),
  GET_VRING_BASE: answered(11, eight, eight),
  SET_VRING_KICK: shape(12, eight, maybe),
  SET_VRING_CALL: shape(13, eight, maybe),
  SET_VRING_ERR: shape(14, eight, maybe),
  GET_PROTOCOL_FEATURES: answered(15, none, eight),
  SET_PROTOCOL_FEATURES: shape(16, eight),
  GET_QUEUE_NUM: answered(17, none, eight),
  SET_VRING_ENABLE: shape(18, eight),
  SEND_RARP: shape(19, eight),
  GET_CONFIG: answered(24, [12, VHOST_USER_PAYLOAD_MAX], [12, VHOST_USER_PAYLOAD_MAX]),
  SET_CONFIG: shape(25, [12, VHOST_USER_PAYLOAD_MAX]),
  GET_INFLIGHT_FD: answered(31, [24, 24], [24, 24], none, maybe),
  SET_INFLIGHT_FD: shape(32, [24, 24], one),
  RESET_DEVICE: shape(34, none),
  GET_MAX_MEM_SLOTS: answered(36, none, eight),
  ADD_MEM_REG: shape(37, [40, 40], one),
  // libvhost-user and DPDK front-ends once sent a descriptor along; it is to be closed.
  REM_MEM_REG: shape(38, [40, 40], maybe),
  SET_STATUS: shape(39, eight),
  GET_STATUS: answered(40, none, eight),
  SET_DEVICE_STATE_FD: answered(42, eight, eight, one, maybe),
  CHECK_DEVICE_STATE: answered(43, none, eight),
} as const satisfies Record<string, RequestShape>;

export type RequestName = keyof typeof vhostUserRequests;

/** Numbers of the proposal of 2023, where 41 and 42 stood for what became 42 and 43. */
export const requestIds2023: Partial<Record<RequestName, number>> = { SET_DEVICE_STATE_FD: 41, CHECK_DEVICE_STATE: 42 };

/** One message's bytes. */
export function encodeVhostUserMessage(
  id: number,
  kind: "request" | "acknowledged-request" | "reply",
  payload: Uint8Array,
): Uint8Array<ArrayBuffer> {
  if (payload.length > VHOST_USER_PAYLOAD_MAX)
    throw new RangeError(`vhost-user message ${id}: ${payload.length} bytes of payload`);
  const flags = VERSION | { request: 0, "acknowledged-request": NEED_REPLY, reply: REPLY }[kind];
  const message = new Uint8Array(vhostUserHeader.size + payload.length);
  message.set(vhostUserHeader.encode({ id, flags, bytes: payload.length }));
  message.set(payload, vhostUserHeader.size);
  return message;
}

export type VhostUserHeader = {
  readonly id: number;
  readonly isReply: boolean;
  readonly needsReply: boolean;
  readonly bytes: number;
};

/**
 * Reads a header and holds its length to our limit.
 *
 * @throws {ProtocolError} VHOST_VERSION, VHOST_SIZE.
 */
export function decodeVhostUserHeader(wire: Uint8Array): VhostUserHeader {
  const { id, flags, bytes } = vhostUserHeader.decode(wire);
  if ((flags & VERSION_MASK) !== VERSION) {
    throw new ProtocolError(
      "VHOST_VERSION",
      `a message with flags 0x${flags.toString(16)} came, version 1 was due; is this a vhost-user socket?`,
    );
  }
  if (bytes > VHOST_USER_PAYLOAD_MAX) {
    throw new ProtocolError(
      "VHOST_SIZE",
      `message ${id} announces ${bytes} bytes, at most ${VHOST_USER_PAYLOAD_MAX} are taken`,
    );
  }
  return { id, isReply: (flags & REPLY) !== 0, needsReply: (flags & NEED_REPLY) !== 0, bytes };
}

export function isWithin(value: number, [min, max]: Span): boolean {
  return value >= min && value <= max;
}

/** `8`, `0 to 1`: a span in messages. */
export function sayingOf([min, max]: Span): string {
  return min === max ? `${min}` : `${min} to ${max}`;
}
