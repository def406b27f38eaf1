/**
 * Net part: what virtio-net saves beside its queues.
 *
 *   addresses and filters │ [queue pairs] │ [guest offloads] │ [RSS] [back-end state]
 *
 * Whether queue pairs follow depends on the device's command line, which the
 * stream does not tell. They are told apart by what comes behind them: a
 * subsection of a virtio device, or the end. Their first byte is 0 or 1, since
 * a device has 511 pairs at most, and that of a subsection is 5, so the two
 * cannot be taken for each other.
 *
 * Source: QEMU 10.2, hw/net/virtio-net.c, vmstate_virtio_net_device.
 */

import type { ByteWriter } from "../byte-writer.js";
import { layout } from "../layout.js";
import { bytes, u8, u16be, u32be } from "../wire-fields.js";
import { backendStateSubsection } from "./backend-state.js";
import type { StateReader } from "./state-reader.js";
import { readSubsections, type SubsectionFormat, type SubsectionValues, writeSubsections } from "./subsections.js";

const MAC_BYTES = 6;
const RSS_KEY_BYTES = 40;
const RSS_TABLE_MAX = 128;
const QUEUE_PAIRS_MAX = 511;

const head = layout(
  "virtio-net, addresses",
  {
    mac: bytes(MAC_BYTES),
    /** 1 if frames of queue pair 0 wait to be sent. */
    txWaiting: u32be,
    mergeableRxBuffers: u32be,
    /** Link up 1, announce 2. */
    linkStatus: u16be,
    promiscuous: u8,
    allMulticast: u8,
    filterCount: u32be, // wire: mac_table.in_use
  },
  { size: 22 },
);

const tail = layout(
  "virtio-net, filters",
  {
    /** One bit a VLAN, 32-bit words in the host's byte order. */
    vlans: bytes(512),
    hasVnetHeader: u32be,
    multicastOverflow: u8,
    unicastOverflow: u8,
    allUnicast: u8,
    noMulticast: u8,
    noUnicast: u8,
    noBroadcast: u8,
    hasUfo: u8,
  },
  { size: 523 },
);

const rssHead = layout(
  "virtio-net, RSS",
  {
    enabled: u8,
    redirect: u8,
    populateHash: u8,
    hashTypes: u32be,
  },
  { size: 7 },
);

const rssTail = layout(
  "virtio-net, RSS table",
  {
    tableLength: u16be, // wire: indirections_len
    defaultQueue: u16be,
    key: bytes(RSS_KEY_BYTES),
  },
  { size: 44 },
);

export type ReceiveSideScaling = ReturnType<(typeof rssHead)["decode"]> & {
  /** What the back-end offers; null before version 2 of the subsection. */
  readonly supportedHashTypes: number | null;
  readonly defaultQueue: number;
  readonly key: Uint8Array;
  /** Which queue a hash leads to. */
  readonly table: readonly number[];
};

const NET_SUBSECTIONS = {
  rss: {
    name: "virtio-net-device/rss",
    versions: [1, 2],
    versionOf: ({ supportedHashTypes }) => (supportedHashTypes === null ? 1 : 2),
    read: (reader, version) => {
      const rss = reader.layout(rssHead);
      const supportedHashTypes = version === 1 ? null : reader.u32("RSS");
      const { tableLength, ...rest } = reader.layout(rssTail);
      reader.bounded(tableLength, RSS_TABLE_MAX, "RSS table");
      const table = Array.from({ length: tableLength }, () => reader.u16("RSS table"));
      return { ...rss, supportedHashTypes, ...rest, table };
    },
    write: (out, rss) => {
      out.bytes(rssHead.encode(rss));
      if (rss.supportedHashTypes !== null) out.u32(rss.supportedHashTypes);
      out.bytes(rssTail.encode({ ...rss, tableLength: rss.table.length }));
      for (const queue of rss.table) out.u16(queue);
    },
  } satisfies SubsectionFormat<ReceiveSideScaling>,
  backendState: backendStateSubsection("virtio-net-device/backend"),
};

export type QueuePairs = {
  /** What the device has. */
  readonly max: number;
  /** What the guest switched on. */
  readonly current: number;
  /** For each pair but the first, as far as switched on: 1 if frames wait to be sent. */
  readonly txWaiting: readonly number[];
};

export type NetPart = Omit<ReturnType<(typeof head)["decode"]>, "filterCount"> &
  ReturnType<(typeof tail)["decode"]> & {
    readonly kind: "net";
    /** MAC addresses that the guest filters by, six bytes each. */
    readonly macFilters: readonly Uint8Array[];
    /** Null of a device with one pair. */
    readonly queuePairs: QueuePairs | null;
    /** Features that the guest switched on while running; null unless CTRL_GUEST_OFFLOADS was negotiated. */
    readonly guestOffloads: bigint | null;
    readonly subsections: SubsectionValues<typeof NET_SUBSECTIONS>;
  };

/** @param hasOffloads  Whether CTRL_GUEST_OFFLOADS was negotiated. */
export function readNetPart(reader: StateReader, hasOffloads: boolean): NetPart {
  const { filterCount, ...addresses } = reader.layout(head);
  reader.bounded(filterCount, Math.floor(reader.left / MAC_BYTES), "MAC filters");
  const macFilters = Array.from({ length: filterCount }, () => reader.bytes(MAC_BYTES, "MAC filters"));
  const filters = reader.layout(tail);
  const queuePairs = endsAhead(reader, hasOffloads ? 8 : 0) ? null : readQueuePairs(reader);
  const guestOffloads = hasOffloads ? reader.u64("guest offloads") : null;
  const subsections = readSubsections(reader, "virtio-net-device", NET_SUBSECTIONS);
  return { kind: "net", ...addresses, macFilters, ...filters, queuePairs, guestOffloads, subsections };
}

export function writeNetPart(out: ByteWriter, part: NetPart): void {
  out.bytes(head.encode({ ...part, filterCount: part.macFilters.length }));
  for (const filter of part.macFilters) out.bytes(filter);
  out.bytes(tail.encode(part));
  if (part.queuePairs !== null) {
    out.u16(part.queuePairs.max).u16(part.queuePairs.current);
    for (const waiting of part.queuePairs.txWaiting) out.u32(waiting);
  }
  if (part.guestOffloads !== null) out.u64Exact(part.guestOffloads);
  writeSubsections(out, NET_SUBSECTIONS, part.subsections);
}

/** Whether what lies `ahead` bytes on is no more of the net part's own fields. */
function endsAhead(reader: StateReader, ahead: number): boolean {
  return reader.left === ahead || reader.peekSubsection("virtio", ahead) !== null;
}

function readQueuePairs(reader: StateReader): QueuePairs {
  const what = "queue pairs";
  const max = reader.bounded(reader.u16(what), QUEUE_PAIRS_MAX, what);
  const current = reader.u16(what);
  if (current < 1 || current > max)
    throw reader.refused(
      "VIRTIO_QUEUE_PAIRS",
      what,
      `${current} in use came, 1 to ${max} were due; the section is damaged`,
    );
  return { max, current, txWaiting: Array.from({ length: current - 1 }, () => reader.u32(what)) };
}
