/**
 * Arrival message: what one bench tells another of a migration to come.
 *
 * It comes from another machine and starts programs here, so every field is one of
 * those we know, or within the limits that the command line has.
 */
import { findCodec } from "../codecs.js";
import { type Arrival, isDestinationKind } from "../destinations.js";
import type { Message } from "./line-channel.js";

/** Raised when benches of two versions would misunderstand each other. */
export const FORMAT = 2;

const CHANNELS_MAX = 64;
const PACKET_BYTES = 512 * 1024;
const RAM_MAX = 2 ** 46;

export function arrivalMessage({ codec, ...rest }: Arrival): Message {
  return { ...rest, method: codec.method };
}

/** @throws {Error} naming what is wrong. */
export function parseArrival(message: Message): Arrival {
  const { kind, method, channels, transport, ramBytes } = message as Readonly<
    Record<"kind" | "method" | "channels" | "transport" | "ramBytes", unknown>
  >;
  if (!isDestinationKind(kind)) throw new Error(`a destination of kind ${JSON.stringify(kind)}`);
  if (transport !== "tcp" && transport !== "unix") throw new Error(`a transport ${JSON.stringify(transport)}`);
  if (!isWhole(channels, CHANNELS_MAX)) throw new Error(`${JSON.stringify(channels)} channels`);
  if (!isWhole(ramBytes, RAM_MAX) || ramBytes % PACKET_BYTES !== 0) {
    throw new Error(`${JSON.stringify(ramBytes)} bytes of RAM`);
  }
  return { kind, transport, channels, ramBytes, codec: findCodec(String(method)) };
}

function isWhole(value: unknown, max: number): value is number {
  return Number.isInteger(value) && (value as number) >= 1 && (value as number) <= max;
}
