/**
 * Connecting to a destination: the main channel first, then every multifd channel, each introduced at once.
 *
 * A QEMU destination reads a new connection synchronously in its main loop: one
 * that stays silent freezes it, monitor and all. Those before 8.0 take the first
 * connection for the main channel, whatever it says.
 * Source: QEMU 10.0, migration/migration.c, migration_ioc_process_incoming().
 */
import { type Address, Channel, MainChannel } from "@multifd/channel";
import { sendBytes } from "@multifd/native";
import { ChannelError, encodeMultifdInit } from "@multifd/protocol";

/** Where a destination is, and how it is dialled. */
export type DestinationTerms = {
  readonly address: Address;
  readonly channels: number;
  /** The VM's, borne by every channel's init message; zeros when it has none. */
  readonly uuid?: Uint8Array;
  readonly connectTimeoutMs: number;
};

/**
 * Opens all connections; whoever gives up through `signal` does not wait for us, and what is opened after that is
 * closed again.
 *
 * @throws {ChannelError} CONNECT_FAILED; CANCELLED; CHANNEL_BROKEN.
 */
export async function connectDestination(
  terms: DestinationTerms,
  signal: AbortSignal,
): Promise<{ readonly main: MainChannel; readonly channels: readonly Channel[] }> {
  const { address, connectTimeoutMs, uuid = new Uint8Array(16) } = terms;
  const open = async () => {
    const channel = await Channel.connect(address, connectTimeoutMs);
    if (!signal.aborted) return channel;
    channel.close();
    throw new ChannelError("CANCELLED", "cancelled while connecting");
  };
  const main = new MainChannel((await open()).release());
  const channels: Channel[] = [];
  try {
    for (let channel = 0; channel < terms.channels; channel++) {
      channels.push(await open());
      sendBytes(channels[channel]!.descriptor, encodeMultifdInit({ uuid, channel }));
    }
    return { main, channels };
  } catch (error) {
    main.destroy();
    for (const channel of channels) channel.close();
    throw error;
  }
}
