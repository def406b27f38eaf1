/**
 * Feature names: what the bits that a guest accepted stand for.
 *
 * Bits 24 to 41 mean the same for every device; the others are its type's own.
 * Names are the specification's, without VIRTIO_F_ or VIRTIO_NET_F_ before them.
 *
 * Source: virtio 1.3, 5 and 6; linux/virtio_config.h, linux/vhost_types.h and each device's header.
 */

import type { VirtioDevice } from "./virtio-device.js";

type FeatureNames = Readonly<Record<number, string>>;

/** Bits that mean the same for every device. */
const SHARED_FEATURES: FeatureNames = {
  24: "NOTIFY_ON_EMPTY",
  26: "LOG_ALL",
  27: "ANY_LAYOUT",
  28: "RING_INDIRECT_DESC",
  29: "RING_EVENT_IDX",
  30: "PROTOCOL_FEATURES",
  32: "VERSION_1",
  33: "ACCESS_PLATFORM",
  34: "RING_PACKED",
  35: "IN_ORDER",
  36: "ORDER_PLATFORM",
  37: "SR_IOV",
  38: "NOTIFICATION_DATA",
  39: "NOTIF_CONFIG_DATA",
  40: "RING_RESET",
  41: "ADMIN_VQ",
};

/** A type's own bits, by the number that the specification gives the type. */
const TYPE_FEATURES: Readonly<Record<number, FeatureNames>> = {
  1: {
    0: "CSUM",
    1: "GUEST_CSUM",
    2: "CTRL_GUEST_OFFLOADS",
    3: "MTU",
    5: "MAC",
    6: "GSO",
    7: "GUEST_TSO4",
    8: "GUEST_TSO6",
    9: "GUEST_ECN",
    10: "GUEST_UFO",
    11: "HOST_TSO4",
    12: "HOST_TSO6",
    13: "HOST_ECN",
    14: "HOST_UFO",
    15: "MRG_RXBUF",
    16: "STATUS",
    17: "CTRL_VQ",
    18: "CTRL_RX",
    19: "CTRL_VLAN",
    20: "CTRL_RX_EXTRA",
    21: "GUEST_ANNOUNCE",
    22: "MQ",
    23: "CTRL_MAC_ADDR",
    50: "DEVICE_STATS",
    51: "HASH_TUNNEL",
    52: "VQ_NOTF_COAL",
    53: "NOTF_COAL",
    54: "GUEST_USO4",
    55: "GUEST_USO6",
    56: "HOST_USO",
    57: "HASH_REPORT",
    59: "GUEST_HDRLEN",
    60: "RSS",
    61: "RSC_EXT",
    62: "STANDBY",
    63: "SPEED_DUPLEX",
    65: "GUEST_UDP_TUNNEL_GSO",
    66: "GUEST_UDP_TUNNEL_GSO_CSUM",
    67: "HOST_UDP_TUNNEL_GSO",
    68: "HOST_UDP_TUNNEL_GSO_CSUM",
  },
  2: {
    0: "BARRIER",
    1: "SIZE_MAX",
    2: "SEG_MAX",
    4: "GEOMETRY",
    5: "RO",
    6: "BLK_SIZE",
    7: "SCSI",
    9: "FLUSH",
    10: "TOPOLOGY",
    11: "CONFIG_WCE",
    12: "MQ",
    13: "DISCARD",
    14: "WRITE_ZEROES",
    15: "LIFETIME",
    16: "SECURE_ERASE",
    17: "ZONED",
  },
  3: { 0: "SIZE", 1: "MULTIPORT", 2: "EMERG_WRITE" },
  4: {},
  5: {
    0: "MUST_TELL_HOST",
    1: "STATS_VQ",
    2: "DEFLATE_ON_OOM",
    3: "FREE_PAGE_HINT",
    4: "PAGE_POISON",
    5: "REPORTING",
  },
  8: { 0: "INOUT", 1: "HOTPLUG", 2: "CHANGE", 3: "T10_PI" },
  9: { 0: "MOUNT_TAG" },
  18: {},
  26: { 0: "NOTIFICATION" },
};

export const FEATURE_VERSION_1 = 1n << 32n;
export const FEATURE_RING_PACKED = 1n << 34n;

/** All features that the guest accepted, bit 0 to 127. */
export function guestFeatures({ featuresLow, subsections }: VirtioDevice): bigint {
  return (subsections.features64 ?? BigInt(featuresLow)) | ((subsections.features128 ?? 0n) << 64n);
}

/**
 * Names features, lowest bit first; one without a name is called `bit 25`.
 *
 * @param typeId  The number that the virtio specification gives the device's type.
 */
export function featureNames(typeId: number, features: bigint): string[] {
  const names: string[] = [];
  for (let bit = 0, left = features; left !== 0n; bit++, left >>= 1n)
    if ((left & 1n) === 1n) names.push(TYPE_FEATURES[typeId]?.[bit] ?? SHARED_FEATURES[bit] ?? `bit ${bit}`);
  return names;
}

const STATUS_BITS: readonly (readonly [bit: number, name: string])[] = [
  [1, "ACKNOWLEDGE"],
  [2, "DRIVER"],
  [4, "DRIVER_OK"],
  [8, "FEATURES_OK"],
  [64, "NEEDS_RESET"],
  [128, "FAILED"],
];

/** Names the bits of a device's status, in the order in which a driver sets them. */
export function statusNames(status: number): string[] {
  return STATUS_BITS.filter(([bit]) => (status & bit) !== 0).map(([, name]) => name);
}
