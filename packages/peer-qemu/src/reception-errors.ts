/**
 * Reception errors: what is said to whoever set the two sides differently.
 *
 * A source and a destination learn nothing of each other's settings from this wire. What differs shows in who
 * connects, in how many, and in their first bytes; each message says which setting that points to.
 */
import type { Channel } from "@multifd/channel";
import { ChannelError, ProtocolError } from "@multifd/protocol";

/** Of `channels` that were expected, `channel` is none. */
export function tooManyChannels(channel: number, channels: number): ProtocolError {
  return new ProtocolError(
    "MULTIFD_CHANNEL_ID",
    `channel ${channel} came, this side expects ${channels} (0 to ${channels - 1}); set the same number of channels on both sides`,
  );
}

/** @param silent  Connections that have not said what they are. */
export function missingChannels(
  address: string,
  { channels, handshakeTimeoutMs }: { readonly channels: number; readonly handshakeTimeoutMs: number },
  missing: readonly string[],
  silent: readonly Channel[],
): ChannelError {
  const shaking = silent.filter((connection) => connection.tls === "handshake").length;
  if (shaking > 0) {
    return new ChannelError(
      "TLS_HANDSHAKE_TIMEOUT",
      `${address}: ${shaking} connected and did not finish the TLS handshake within ${handshakeTimeoutMs} ms of the first connection; is TLS switched on at the source?`,
    );
  }
  const note = silent.length === 0 ? "" : ` (${silent.length} connected without saying what they are)`;
  return new ChannelError(
    "CHANNELS_MISSING",
    `${address}: ${missing.join(", ")} did not come within ${handshakeTimeoutMs} ms of the first connection${note}; set multifd on and ${channels} channels at the source`,
  );
}

export function unknownMagic(magic: Uint8Array): ProtocolError {
  const came = Buffer.from(magic).toString("hex");
  const hint =
    magic[0] === 0x16
      ? "it looks like TLS: give this side credentials, or switch it off at the source"
      : "is the peer a migration source?";
  return new ProtocolError(
    "CONNECTION_MAGIC",
    `a connection began with ${came}; 5145564d (main channel) or 11223344 (multifd channel) was due; ${hint}`,
  );
}
