/**
 * Negotiated channel: a back-end's connection on which both sides know what may be said.
 *
 * The features offered come first, then the protocol features, of which we
 * acknowledge those below and no other, then ownership. What a back-end has not
 * offered is never sent to it; it would close the connection.
 *
 * Owns the channel.
 * Source: QEMU 11.1, docs/interop/vhost-user.rst, "Protocol features"; virtiofsd, passt, qemu-storage-daemon and
 * testpmd as they answer.
 */
import { ConfigError } from "@multifd/protocol";
import {
  deviceFeature,
  featureSet,
  hasBit,
  nameProtocolFeatures,
  type ProtocolFeature,
  protocolFeature,
} from "./features.js";
import { decodeNumber, encodeNumber, NO_PAYLOAD } from "./messages.js";
import type { RequestChannel } from "./request-channel.js";

/** What we implement, and hence acknowledge. */
const implemented: readonly ProtocolFeature[] = [
  "queues",
  "logSharedMemory",
  "rarp",
  "replyAck",
  "config",
  "inflight",
  "resetDevice",
  "memorySlots",
  "status",
  "deviceState",
];

/** What front-end and back-end have agreed on about their connection. */
export type Negotiated = {
  /** Device features that the back-end offers. */
  readonly offered: bigint;
  readonly protocolFeatures: bigint;
};

export class NegotiatedChannel {
  readonly channel: RequestChannel;
  /** Device features that the back-end offers. */
  readonly offered: bigint;
  /** Protocol features agreed on. */
  readonly protocolFeatures: bigint;

  /** Takes over what has been negotiated on this connection before. */
  constructor(channel: RequestChannel, { offered, protocolFeatures }: Negotiated) {
    this.channel = channel;
    this.offered = offered;
    this.protocolFeatures = protocolFeatures;
    // What was agreed on decides how messages look from here on.
    if (this.has("replyAck")) channel.expectAcknowledgements();
    if (this.has("deviceState2023")) channel.useNumbersOf2023();
  }

  /**
   * Negotiates on a connection that is new, and takes the device.
   *
   * @param takes2023  As in `FrontEndTerms`.
   * @throws what requests throw.
   */
  static async negotiate(channel: RequestChannel, takes2023: boolean): Promise<NegotiatedChannel> {
    const offered = decodeNumber((await channel.request("GET_FEATURES", NO_PAYLOAD)).payload);
    const protocolFeatures = await agree(channel, offered, takes2023);
    const negotiated = new NegotiatedChannel(channel, { offered, protocolFeatures });
    await channel.request("SET_OWNER", NO_PAYLOAD);
    return negotiated;
  }

  has(feature: ProtocolFeature): boolean {
    return hasBit(this.protocolFeatures, protocolFeature[feature]);
  }

  /** @throws {ConfigError} VHOST_NOT_OFFERED, unless the feature is agreed on. @param doing  What needs it. */
  need(feature: ProtocolFeature, doing: string): void {
    if (this.has(feature)) return;
    const bit = protocolFeature[feature];
    const agreed = nameProtocolFeatures(this.protocolFeatures).join(", ") || "none";
    throw new ConfigError(
      "VHOST_NOT_OFFERED",
      `${this.channel.name}, ${doing}: the back-end does not offer protocol feature ${bit} (${nameProtocolFeatures(featureSet(bit))}); agreed on: ${agreed}`,
    );
  }
}

/** @returns the protocol features that both sides have from here on. */
async function agree(channel: RequestChannel, offered: bigint, takes2023: boolean): Promise<bigint> {
  if (!hasBit(offered, deviceFeature.protocolFeatures)) return 0n;
  const theirs = decodeNumber((await channel.request("GET_PROTOCOL_FEATURES", NO_PAYLOAD)).payload);
  const ours = featureSet(...implemented.map((feature) => protocolFeature[feature]));
  let agreed = theirs & ours;
  const bit2023 = featureSet(protocolFeature.deviceState2023);
  if (takes2023 && !hasBit(agreed, protocolFeature.deviceState)) agreed |= theirs & bit2023;
  await channel.request("SET_PROTOCOL_FEATURES", encodeNumber(agreed));
  return agreed;
}
