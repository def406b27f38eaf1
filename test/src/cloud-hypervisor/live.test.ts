/** A live guest process over Cloud Hypervisor's protocol: every kind of channel, compared byte for byte, and asked itself. */
import assert from "node:assert/strict";
import { fstatSync } from "node:fs";
import { join } from "node:path";
import { type Address, parseAddress, readTlsCredentials } from "@multifd/channel";
import { GuestProcess, IncomingGuest, LiveGuest, verifyMigration } from "@multifd/cli";
import type { RamBlock } from "@multifd/memory";
import { closeDescriptor, mapFile, readMemory, unmap } from "@multifd/native";
import {
  type AdoptedRam,
  type CloudHypervisorDestinationGuest,
  type CloudHypervisorDestinationJob,
  type CloudHypervisorSource,
  type CloudHypervisorSourceJob,
  runCloudHypervisorDestination,
  runCloudHypervisorSource,
} from "@multifd/peer-cloud-hypervisor";
import { ERAS } from "@multifd/protocol";
import { createScratchDir, makeAuthority, makeCertificates, removeScratchDir } from "../peers/index.js";

const RAM_BYTES = 96 * 2 ** 20;
const RATE = 64 * 2 ** 20;

/** A guest process's one block, low in memory, as a configuration of Cloud Hypervisor's tells it. */
function describeGuest(blocks: readonly RamBlock[]): Uint8Array {
  const mappings = blocks.map(({ name, lengthBytes }, slot) => ({
    slot,
    gpa: slot * 2 ** 40,
    size: lengthBytes,
    zone_id: name,
    virtio_mem: false,
    file_offset: 0,
  }));
  return Buffer.from(JSON.stringify({ vm_config: {}, memory_manager_data: { guest_ram_mappings: mappings } }));
}

async function save(guest: LiveGuest): Promise<Buffer> {
  const pieces: Uint8Array[] = [];
  for (const device of guest.devices) for await (const piece of device.save()) pieces.push(piece);
  return Buffer.concat(pieces);
}

/** A waiting guest process, which takes RAM over the stream. */
function waitingGuest(incoming: IncomingGuest): CloudHypervisorDestinationGuest {
  return {
    loadConfig: async () => {},
    placeRam: (blocks) => incoming.placeRam(blocks),
    adoptRam: async () => assert.fail("RAM was to come over the stream"),
    loadState: async (state) => {
      const whole = async function* () {
        yield state;
      };
      await incoming.loadDeviceState({ idstr: "multifd-guest", instanceId: 0 }, whole());
    },
    commit: () => incoming.commit(),
    abandon: () => incoming.abandon(),
  };
}

describe("a live guest over Cloud Hypervisor's protocol", function () {
  this.timeout(60_000);
  let dir: string;
  let giving: GuestProcess;
  let guest: LiveGuest;
  const ends: (() => unknown)[] = [];
  before(() => {
    dir = createScratchDir();
    makeAuthority(join(dir, "authority"));
    makeCertificates(join(dir, "tls"), join(dir, "authority"));
  });
  after(() => removeScratchDir(dir));
  beforeEach(async () => {
    giving = await GuestProcess.start({
      socketPath: join(dir, "source.sock"),
      ramBytes: RAM_BYTES,
      rate: RATE,
      incoming: false,
    });
    ends.push(() => giving.end());
    guest = await LiveGuest.open(giving.address);
    ends.push(() => guest.close());
  });
  afterEach(async () => {
    for (const end of ends.splice(0).reverse()) await end();
  });

  function source(): CloudHypervisorSource {
    return { guest, config: describeGuest(guest.ram.map(({ block }) => block)), snapshot: () => save(guest) };
  }

  async function migrate(
    heir: CloudHypervisorDestinationGuest,
    address: Address,
    to: Partial<CloudHypervisorDestinationJob>,
    from: Partial<CloudHypervisorSourceJob>,
  ): Promise<void> {
    let listening: (address: string) => void = () => {};
    const bound = new Promise<string>((resolve) => {
      listening = resolve;
    });
    const taken = runCloudHypervisorDestination({
      guest: heir,
      address,
      era: ERAS.next,
      memory: "stream",
      lenientDescriptors: false,
      channels: 1,
      handshakeTimeoutMs: 20_000,
      stallTimeoutMs: 20_000,
      onEvent: (event) => {
        if (event.event === "listening") listening(event.address);
      },
      ...to,
    });
    taken.catch(() => {}); // told by the await below
    const given = runCloudHypervisorSource({
      source: source(),
      address: parseAddress(await bound),
      era: ERAS.next,
      memory: "stream",
      channels: 1,
      handOver: "resume",
      connectTimeoutMs: 20_000,
      stallTimeoutMs: 20_000,
      downtimeLimitMs: 500,
      roundsMax: 100,
      atRoundLimit: "switchover",
      maxBandwidth: 0,
      onEvent: () => {},
      ...from,
    });
    const [received, sent] = await Promise.all([taken, given]);
    assert.deepEqual([received.acknowledged, sent.acknowledged], [true, true]);
    assert.ok(sent.downtimeMs !== null);
  }

  for (const form of ["unix", "tcp", "tcp under TLS"] as const) {
    for (const channels of [1, 8]) {
      it(`runs on with every byte: ${form}, ${channels} channels`, async () => {
        const receiving = await GuestProcess.start({
          socketPath: join(dir, "destination.sock"),
          ramBytes: RAM_BYTES,
          incoming: true,
        });
        ends.push(() => receiving.end());
        const incoming = await IncomingGuest.open(receiving.address);
        let isOpen = true;
        const leave = () => {
          if (isOpen) incoming.close();
          isOpen = false;
        };
        ends.push(leave);
        const address: Address =
          form === "unix" ? { kind: "unix", path: join(dir, "in.sock") } : { kind: "tcp", host: "127.0.0.1", port: 0 };
        const listen = {
          role: "listen",
          verifyPeer: true,
          credentials: readTlsCredentials(join(dir, "tls"), "listen"),
        };
        const connect = {
          role: "connect",
          credentials: readTlsCredentials(join(dir, "tls"), "connect"),
          hostname: "127.0.0.1",
          username: "",
        };
        await migrate(
          waitingGuest(incoming),
          address,
          form === "tcp under TLS"
            ? { channels, tls: listen as NonNullable<CloudHypervisorDestinationJob["tls"]> }
            : { channels },
          {
            channels,
            era: form === "unix" && channels > 1 ? ERAS.v52 : ERAS.next,
            ...(form === "tcp under TLS" && { tls: connect as NonNullable<CloudHypervisorSourceJob["tls"]> }),
          },
        );
        assert.ok(incoming.downtimeMs !== null);
        leave(); // its control socket serves one at a time
        const { pages } = await verifyMigration(guest, receiving, true);
        assert.equal(pages, RAM_BYTES / 4096);
      });
    }
  }

  it("stands still in the very file that is handed over, from State on", async () => {
    let adopted: readonly AdoptedRam[] = [];
    const content = () => {
      const bytes = Buffer.alloc(RAM_BYTES);
      const mapping = mapFile(adopted[0]!.descriptor, { lengthBytes: RAM_BYTES, writable: false });
      readMemory(mapping, 0, bytes);
      unmap(mapping);
      return bytes;
    };
    let atState: Buffer | null = null;
    let state: Uint8Array | null = null;
    ends.push(() => {
      for (const { descriptor } of adopted) closeDescriptor(descriptor);
    });
    const heir: CloudHypervisorDestinationGuest = {
      loadConfig: async () => {},
      placeRam: async () => assert.fail("RAM was to come as descriptors"),
      adoptRam: async (ram) => {
        adopted = ram;
        atState = content();
      },
      loadState: async (bytes) => {
        state = bytes;
      },
      commit: async () => {},
      abandon: async () => {},
    };
    await migrate(heir, { kind: "unix", path: join(dir, "in.sock") }, {}, { memory: "descriptors" });
    assert.equal(fstatSync(adopted[0]!.descriptor).ino, fstatSync(guest.ram[0]!.descriptor).ino);
    assert.equal(Buffer.compare(content(), atState!), 0);
    assert.deepEqual([(await guest.status()).running, Buffer.compare(state!, await save(guest))], [false, 0]);
  });
});
