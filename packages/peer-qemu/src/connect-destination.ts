/**
 * Connecting to a destination: the main channel first, then every multifd channel, each introduced at once.
 *
 * A QEMU destination reads a new connection synchronously in its main loop: one
 * that stays silent freezes it, monitor and all. Those before 8.0 take the first
 * connection for the main channel, whatever it says. Under TLS every QEMU does, for
 * it cannot look into those: main has finished its handshake before the next one opens.
 * Source: QEMU 10.0, migration/migration.c, migration_ioc_process_incoming().
 */
import {
  type Channel,
  type DialTerms,
  dial,
  formatAddress,
  MainChannel,
  type TlsConnectTerms,
  TlsPump,
} from "@multifd/channel";
import { sendBytes } from "@multifd/native";
import { encodeMultifdInit, placeError } from "@multifd/protocol";

/** Where a destination is, and how it is dialled. */
export type DestinationTerms = DialTerms & {
  readonly channels: number;
  /** The VM's, borne by every channel's init message; zeros when it has none. */
  readonly uuid?: Uint8Array;
  /** Left out: plain connections. */
  readonly tls?: TlsConnectTerms;
};

/**
 * Opens all connections; whoever gives up through `signal` does not wait for us, and what is opened after that is
 * closed again.
 *
 * @throws {ChannelError} CONNECT_FAILED; CANCELLED; CHANNEL_BROKEN; TLS_HANDSHAKE_TIMEOUT.
 * @throws {MigrationError} TLS_…: what came of a handshake.
 */
export async function connectDestination(
  terms: DestinationTerms,
  signal: AbortSignal,
): Promise<{ readonly main: MainChannel; readonly channels: readonly Channel[] }> {
  const { uuid = new Uint8Array(16) } = terms;
  const tls = terms.tls ? new TlsPump(terms.tls) : null;
  const opened: Channel[] = [];
  try {
    const main = await dial(terms, tls, signal);
    opened.push(main);
    for (let channel = 0; channel < terms.channels; channel++) {
      const connection = await dial(terms, tls, signal);
      opened.push(connection);
      await introduce(terms, connection, encodeMultifdInit({ uuid, channel }));
    }
    return { main: new MainChannel(main), channels: opened.slice(1) };
  } catch (error) {
    for (const connection of opened) connection.close();
    throw error;
  } finally {
    tls?.end();
  }
}

async function introduce({ address }: DestinationTerms, channel: Channel, message: Uint8Array): Promise<void> {
  try {
    sendBytes(channel.descriptor, message);
  } catch (error) {
    throw placeError(await channel.explain(error), formatAddress(address));
  }
}
