/**
 * Dialling: one connection to a peer, secured if that was agreed, given up as soon as nobody wants it any more.
 */
import { ChannelError, placeError } from "@multifd/protocol";
import { type Address, formatAddress } from "./address.js";
import { Channel } from "./channel.js";
import type { TlsPump } from "./tls-pump.js";

/** Where to, and how long to wait. */
export type DialTerms = {
  readonly address: Address;
  /** For the connection, and again for its TLS handshake. */
  readonly connectTimeoutMs: number;
};

/**
 * Opens a connection, the caller's to close; whoever gives up through `signal` does not wait for it.
 *
 * @param tls  Null for a plain one.
 * @throws {ChannelError} CONNECT_FAILED; CANCELLED; TLS_HANDSHAKE_TIMEOUT. @throws {MigrationError} TLS_…
 */
export async function dial(terms: DialTerms, tls: TlsPump | null, signal: AbortSignal): Promise<Channel> {
  const { address, connectTimeoutMs } = terms;
  const socket = await Channel.connect(address, connectTimeoutMs);
  const channel = tls?.secure(socket, connectTimeoutMs) ?? socket;
  const giveUp = () => channel.shutDown();
  signal.addEventListener("abort", giveUp);
  try {
    if (!signal.aborted) await channel.secured();
    if (!signal.aborted) return channel;
  } catch (error) {
    channel.close();
    if (!signal.aborted) throw placeError(error, formatAddress(address));
  } finally {
    signal.removeEventListener("abort", giveUp);
  }
  channel.close();
  throw new ChannelError("CANCELLED", "cancelled while connecting");
}
