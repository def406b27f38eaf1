/**
 * Connecting to a destination: the main channel, and later the additional ones, at the same address.
 *
 * Under TLS every one of them is secured before a byte is sent.
 */
import { type Channel, type DialTerms, dial, type TlsConnectTerms, TlsPump } from "@multifd/channel";
import { ChannelError } from "@multifd/protocol";

export type ConnectTerms = DialTerms & { readonly tls?: TlsConnectTerms };

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
    while (opened.length < count) opened.push(await dial(terms, tls, signal));
    if (signal.aborted) throw new ChannelError("CANCELLED", "cancelled while connecting");
    return opened;
  } catch (error) {
    for (const channel of opened) channel.close();
    throw error;
  } finally {
    tls?.end();
  }
}
