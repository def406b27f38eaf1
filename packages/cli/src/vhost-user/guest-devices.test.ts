import assert from "node:assert/strict";
import { type GuestAnswer, parseDescription } from "../guest-description.js";
import { countDescriptors } from "./guest-devices.js";

const block = { name: "ram", bytes: 2 ** 20, address: 2 ** 40, pageBytes: 4096 };
const run = { block: 0, offset: 4096, guestAddress: 2 ** 32, bytes: 8192 };
const ring = { index: 1, size: 16, descriptors: 0x1000, available: 0x2000, used: 0x3000, base: 7 };
const device = { name: "files", features: "0x100000000", connection: null, rings: [ring] };
const answer = { ok: true, pid: 42, blocks: [block], tracking: true, memory: [run], devices: [device] };

describe("guest devices", () => {
  it("takes where memory and rings lie, and which descriptors belong to them", () => {
    const connection = { offered: "0x140000000", protocolFeatures: "0x8a00b" };
    const lending = {
      ...device,
      name: "net",
      mac: "52:54:00:a1:B2:c3",
      rings: [ring, { ...ring, index: 0 }],
      connection,
    };
    const { memory, devices } = parseDescription({ ...answer, devices: [device, lending] }, "guest");
    assert.deepEqual(memory, [{ block: 0, offsetBytes: 4096, guestAddress: 2 ** 32, lengthBytes: 8192 }]);
    const [files, net] = devices;
    assert.deepEqual([files!.features, files!.bases, files!.connection], [2n ** 32n, [7], null]);
    assert.deepEqual(files!.rings, [{ index: 1, size: 16, descriptors: 0x1000, available: 0x2000, used: 0x3000 }]);
    assert.deepEqual(files!.events, [{ kick: 1, call: 2 }]);
    assert.deepEqual(net!.events[1], { kick: 5, call: 6 });
    assert.deepEqual([files!.mac, net!.mac], [null, Buffer.from("525400a1b2c3", "hex")]);
    assert.deepEqual(net!.connection, { offered: 0x140000000n, protocolFeatures: 0x8a00bn, at: 7 });
    assert.equal(countDescriptors(1, devices), 8);
  });

  it("takes a guest that has none, and one that waits and knows its rings' sizes only", () => {
    const { memory, devices } = parseDescription({ ...answer, memory: undefined, devices: undefined }, "guest");
    assert.deepEqual([memory, devices], [[], []]);
    const waiting = { ...device, rings: [{ index: 0, size: 16 }] };
    const { devices: waits } = parseDescription({ ...answer, devices: [waiting] }, "guest");
    assert.deepEqual([waits[0]!.rings[0]!.used, waits[0]!.bases], [0, [0]]);
  });

  it("refuses every field that does not make sense", () => {
    const wrong: GuestAnswer[] = [
      { ...answer, memory: "all" },
      { ...answer, memory: [{ ...run, block: 1 }] },
      { ...answer, memory: [{ ...run, offset: 2 ** 20 }] },
      { ...answer, memory: [{ ...run, guestAddress: 4097 }] },
      { ...answer, memory: [{ ...run, guestAddress: 2 ** 46 }] },
      { ...answer, memory: [{ ...run, bytes: 2 ** 30 }] },
      { ...answer, devices: [null] },
      { ...answer, devices: [device, device] },
      { ...answer, devices: [{ ...device, name: "a b" }] },
      { ...answer, devices: [{ ...device, features: 4 }] },
      { ...answer, devices: [{ ...device, mac: "52:54" }] },
      { ...answer, devices: [{ ...device, rings: null }] },
      { ...answer, devices: [{ ...device, rings: [{ ...ring, size: 15 }] }] },
      { ...answer, devices: [{ ...device, rings: [{ ...ring, index: -1 }] }] },
      { ...answer, devices: [{ ...device, rings: [{ ...ring, used: 2 ** 50 }] }] },
      { ...answer, devices: [{ ...device, rings: [{ ...ring, base: 65_536 }] }] },
      { ...answer, devices: [{ ...device, connection: { offered: "0x1" } }] },
    ];
    for (const given of wrong) {
      assert.throws(() => parseDescription(given, "guest"), { code: "GUEST_ANSWER" }, JSON.stringify(given));
    }
  });
});
