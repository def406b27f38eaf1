/**
 * Guest processes over Cloud Hypervisor's protocol: one that runs as a source, one that waits as a destination.
 *
 * They have a Config and a State of their own making, in the form that Cloud Hypervisor's have:
 * RAM blocks become memory zones of one mapping each, and the guest's state is one component's data.
 * Nothing of that is for a real Cloud Hypervisor, which would look for a VM in it.
 */
import type { RamPlacement } from "@multifd/engine";
import type { RamBlock } from "@multifd/memory";
import { punchFile } from "@multifd/native";
import {
  AdoptedFiles,
  type AdoptedRam,
  type CloudHypervisorDestinationGuest,
  type CloudHypervisorSource,
} from "@multifd/peer-cloud-hypervisor";
import {
  ConfigError,
  findStateNode,
  JsonMembers,
  ProtocolError,
  parseJsonText,
  readStateTree,
} from "@multifd/protocol";
import type { IncomingGuest } from "../incoming-guest.js";
import { GUEST_STATE, type LiveGuest } from "../live-guest.js";

/** Between two blocks at least: a map without holes would be no test of one. */
const HOLE_BYTES = 2 ** 30;
const COMPONENT = "guest-process";
const STATE_LIMITS = { charactersMax: 2 ** 28, depthMax: 8, valuesMax: 100 };

/** A running guest process; the guest stays the caller's to close. */
export function liveSource(guest: LiveGuest): CloudHypervisorSource {
  return {
    guest,
    config: describeGuest(guest.ram.map(({ block }) => block)),
    snapshot: async () => {
      const pieces: Uint8Array[] = [];
      for (const device of guest.devices) for await (const piece of device.save()) pieces.push(piece);
      return wrapState(Buffer.concat(pieces));
    },
  };
}

/** A guest process that waits for its RAM and its state, and then runs. */
export class WaitingGuest implements CloudHypervisorDestinationGuest {
  readonly #guest: IncomingGuest;
  readonly #adopted = new AdoptedFiles();

  /** @param guest  Stays the caller's to close. */
  constructor(guest: IncomingGuest) {
    this.#guest = guest;
  }

  async loadConfig(): Promise<void> {}

  placeRam(blocks: readonly RamBlock[]): Promise<readonly RamPlacement[]> {
    return this.#guest.placeRam(blocks);
  }

  /** The process has mapped RAM of its own: what the source has left in its files is copied when it gives the guest up. */
  async adoptRam(ram: readonly AdoptedRam[]): Promise<void> {
    this.#adopted.take(ram, []);
    const placements = await this.placeRam(ram.map(({ block }) => block));
    for (const { block, descriptor, startsZeroed, through } of placements) {
      if (through !== "file")
        throw new ConfigError(
          "GUEST_RAM",
          `RAM block "${block.name}" comes as a descriptor, and the guest's is of huge pages, into which no file is copied; send RAM over the stream`,
        );
      if (!startsZeroed) punchFile(descriptor, 0, block.lengthBytes);
    }
    this.#adopted.take(ram, placements);
  }

  async loadState(state: Uint8Array): Promise<void> {
    const bytes = unwrapState(state);
    const pieces = async function* () {
      yield bytes;
    };
    await this.#guest.loadDeviceState(GUEST_STATE, pieces());
  }

  async commit(how: "resume" | "leave-paused"): Promise<void> {
    if (how === "leave-paused")
      throw new ConfigError("GUEST_LEAVE_PAUSED", "the source wants the guest left paused, and a guest process runs");
    await this.#adopted.copy();
    await this.#guest.commit();
  }

  async abandon(): Promise<void> {
    this.#adopted.close();
    await this.#guest.abandon();
  }
}

function describeGuest(blocks: readonly RamBlock[]): Uint8Array {
  let gpa = 0;
  const mappings = blocks.map(({ name, lengthBytes }, slot) => {
    const mapping = { slot, gpa, size: lengthBytes, zone_id: name, virtio_mem: false, file_offset: 0 };
    gpa = Math.ceil((gpa + lengthBytes) / HOLE_BYTES + 1) * HOLE_BYTES;
    return mapping;
  });
  const memory = { memory_ranges: { data: [] }, guest_ram_mappings: mappings };
  return Buffer.from(JSON.stringify({ vm_config: {}, memory_manager_data: memory }));
}

function wrapState(bytes: Buffer): Uint8Array {
  const data = { state: JSON.stringify({ bytes: bytes.toString("base64") }) };
  const component = { snapshots: {}, snapshot_data: data };
  return Buffer.from(JSON.stringify({ snapshots: { [COMPONENT]: component }, snapshot_data: null }));
}

/** @throws {ProtocolError} DEVICE_MISSING, and what is wrong with the JSON. */
function unwrapState(state: Uint8Array): Uint8Array {
  const content = findStateNode(readStateTree(state), COMPONENT)?.data[0]?.content;
  const value = typeof content === "string" ? parseJsonText(content, STATE_LIMITS) : null;
  const text = value instanceof JsonMembers ? value.last("bytes") : undefined;
  if (typeof text === "string") return Buffer.from(text, "base64");
  throw new ProtocolError(
    "DEVICE_MISSING",
    "State is of no guest process; receive a VM with --out, or with --ram, --config and --state",
  );
}
