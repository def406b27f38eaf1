/**
 * Spoilt virtio state: what our check refuses is given to a real QEMU, which must refuse it, too.
 *
 * A guest that has booted from a virtio disk is saved. Its stream is changed in one field of that disk's section,
 * nothing else, and a new QEMU is to load it; the same field goes through our own check, with the same guest RAM.
 */
import assert from "node:assert/strict";
import { closeSync, openSync, readFileSync, readSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import {
  checkVirtioDevice,
  type DestinationFacts,
  decodeVirtioDevice,
  encodeVirtioDevice,
  guestFeatures,
  ProtocolError,
  type VirtioDevice,
} from "@multifd/protocol";
import {
  bootGuestSector,
  createScratchDir,
  QemuProcess,
  type QemuVersion,
  removeScratchDir,
  sixteenMegabytes,
  waitForProgress,
  zeroImage,
} from "../peers/index.js";
import { deviceSections, type RecordedSection } from "./device-sections.js";

const RAM_BYTES = 64 * 2 ** 20;
const FEATURE_NOBODY_OFFERS = 1n << 50n;

/** Changes the section in place: the stream around it stays as long as it was. */
type Spoil = (device: VirtioDevice, bytes: Buffer) => Uint8Array;

const changed =
  (change: (device: VirtioDevice) => Partial<VirtioDevice>): Spoil =>
  (device) =>
    encodeVirtioDevice({ ...device, ...change(device) });

const renamed =
  (from: string, to: string): Spoil =>
  (_, bytes) => {
    const at = bytes.indexOf(from);
    assert.ok(at > 0, `there is a subsection ${from}`);
    bytes.write(to, at);
    return bytes;
  };

const spoilers: readonly (readonly [what: string, code: string, said: RegExp, spoil: Spoil])[] = [
  [
    "a subsection that nobody knows",
    "VIRTIO_SUBSECTION",
    /virtio/,
    renamed("virtio/64bit_features", "virtio/65bit_features"),
  ],
  ["a selected queue beyond any", "VIRTIO_QUEUE_SELECT", /virtio-blk/, changed(() => ({ queueSelect: 1024 }))],
  [
    "a configuration vector that the device has not",
    "VIRTIO_VECTOR",
    /virtio-blk/,
    changed(({ pci }) => ({ pci: { ...pci, msix: { ...pci.msix!, configurationVector: 999 } } })),
  ],
  [
    "another PCI device",
    "VIRTIO_PCI_ID",
    /Bad config data/,
    changed(({ pci }) => {
      const configurationSpace = Buffer.from(pci.configurationSpace);
      configurationSpace.writeUInt16LE(0x1050, 2);
      return { pci: { ...pci, configurationSpace } };
    }),
  ],
  [
    "features that are not offered",
    "VIRTIO_FEATURES",
    /[Ff]eatures .* unsupported/,
    changed((device) => ({
      subsections: { ...device.subsections, features64: guestFeatures(device) | FEATURE_NOBODY_OFFERS },
    })),
  ],
  [
    "a queue without rings that has got somewhere",
    "VIRTIO_QUEUE_INDEX",
    /VQ 1 address 0x0 inconsistent/,
    changed(({ queues }) => ({
      queues: queues.map((queue, at) => (at === 1 ? { ...queue, lastAvailableIndex: 7 } : queue)),
    })),
  ],
  [
    "a queue that is behind what it gave back",
    "VIRTIO_RING_INDEX",
    /VQ 0 size .* last_avail_idx .* used_idx/,
    changed(({ queues }) => ({
      queues: queues.map((queue, at) =>
        at === 0 ? { ...queue, lastAvailableIndex: (queue.lastAvailableIndex - 20) & 0xffff } : queue,
      ),
    })),
  ],
];

for (const version of ["7.2", "11.1"] satisfies QemuVersion[]) {
  describe(`virtio state that was spoilt, and QEMU ${version}`, function () {
    this.timeout(60_000);
    let dir: string;
    let stream: Buffer;
    let section: RecordedSection;
    let device: VirtioDevice;
    let facts: DestinationFacts;
    let ram: number;

    const start = (image: string, incoming?: "defer") =>
      QemuProcess.start({
        version,
        machine: "q35",
        memory: [{ id: "pc.ram", path: join(dir, image), bytes: RAM_BYTES }],
        extraArgs: [
          ...["-blockdev", `driver=file,node-name=f,filename=${join(dir, "disk")}`],
          ...["-device", "virtio-blk-pci,drive=f,bootindex=1,num-queues=2"],
        ],
        ...(incoming && { incoming }),
      });

    before(async () => {
      dir = createScratchDir();
      zeroImage(join(dir, "ram"), RAM_BYTES);
      writeFileSync(join(dir, "disk"), bootGuestSector(sixteenMegabytes));
      truncateSync(join(dir, "disk"), 2 ** 20);
      const vm = await start("ram");
      try {
        await waitForProgress(join(dir, "ram"));
        await vm.execute("stop");
        await vm.setMigration({ channels: 0, capabilities: { "return-path": false } });
        await vm.migrateTo(`exec:cat >${join(dir, "stream")}`);
        assert.equal((await vm.waitMigration()).status, "completed");
      } finally {
        await vm.stop();
      }
      stream = readFileSync(join(dir, "stream"));
      section = (await deviceSections(join(dir, "stream"))).find(({ name }) => name.endsWith("/virtio-blk"))!;
      device = decodeVirtioDevice(section.name, section.bytes, section.version)!;
      ram = openSync(join(dir, "ram"), "r");
      const read = (address: bigint, bytes: number) => {
        if (address + BigInt(bytes) > BigInt(RAM_BYTES)) return null;
        const into = Buffer.alloc(bytes);
        readSync(ram, into, 0, bytes, Number(address));
        return into;
      };
      // What the guest took was offered; this QEMU offers nothing that we know beside it in the upper bits.
      facts = { memory: { read }, offeredFeatures: guestFeatures(device) | 0xffff_ffffn };
    });
    after(() => {
      closeSync(ram);
      removeScratchDir(dir);
    });

    /** What a new QEMU says of the stream with these bytes in the section's place. */
    async function load(bytes: Uint8Array): Promise<{ readonly takes: boolean; readonly said: string }> {
      const at = stream.indexOf(section.bytes);
      assert.ok(at > 0 && bytes.length === section.bytes.length);
      const spoilt = Buffer.from(stream);
      spoilt.set(bytes, at);
      writeFileSync(join(dir, "spoilt"), spoilt);
      zeroImage(join(dir, "heir"), RAM_BYTES);
      const vm = await start("heir", "defer");
      try {
        await vm.setMigration({ channels: 0, capabilities: { "return-path": false } });
        await vm.listen(`exec:cat ${join(dir, "spoilt")}`);
        const { status, error } = await vm.waitMigration();
        return { takes: status === "completed", said: `${error} ${vm.stderr}` };
      } catch (error) {
        return { takes: false, said: `${(error as Error).message} ${vm.stderr}` }; // it has ended
      } finally {
        await vm.stop();
      }
    }

    /** What we say of the same bytes. */
    function check(bytes: Uint8Array): ProtocolError | null {
      try {
        checkVirtioDevice(decodeVirtioDevice(section.name, bytes, section.version)!, facts);
        return null;
      } catch (error) {
        assert.ok(error instanceof ProtocolError);
        return error;
      }
    }

    it("is taken by both as it was", async () => {
      assert.equal(check(section.bytes), null);
      const { takes, said } = await load(section.bytes);
      assert.ok(takes, said);
    });

    for (const [what, code, due, spoil] of spoilers) {
      it(`is refused by both: ${what}`, async () => {
        const bytes = spoil(device, Buffer.from(section.bytes));
        assert.equal(check(bytes)?.code, code);
        const { takes, said } = await load(bytes);
        assert.deepEqual([takes, due.test(said)], [false, true], said);
      });
    }
  });
}
