/**
 * Connecting to a destination: the main channel, and later the additional ones, at the same address.
 *
 * Under TLS every one of them is secured before a byte is sent.
 */
import { type Address, Channel, formatAddress, type TlsConnectTerms, TlsPump } from "@multifd/channel";
import { ChannelError, placeError } from "@multifd/protocol";

export type ConnectTerms = {
  readonly address: Address;
  /** For each channel, and again for its TLS handshake. */
  readonly connectTimeoutMs: number;
  readonly tls?: TlsConnectTerms;
};

/**
 * Opens so many channels; whoever gives up through `signal` does not wait for us, and what is opened after that is closed
 * again.
 *
 * @throws {ChannelError} CONNECT_FAILED; CANCELLED; TLS_HANDSHAKE_TIMEOUT; {MigrationError} TLS_…
 */
export async function connectChannels(
  terms: ConnectTerms,
  count: number,
  signal: AbortSignal,
): Promise<readonly Channel[]> {
  const tls = terms.tls ? new TlsPump(terms.tls) : null;
  const opened: Channel[] = [];
  try {
    while (opened.length < count) opened.push(await open(terms, tls, signal));
    if (signal.aborted) throw new ChannelError("CANCELLED", "cancelled while connecting");
    return opened;
  } catch (error) {
    for (const channel of opened) channel.close();
    throw error;
  } finally {
    tls?.end();
  }
}

async function open(terms: ConnectTerms, tls: TlsPump | null, signal: AbortSignal): Promise<Channel> {
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
