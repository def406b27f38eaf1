import assert from "node:assert/strict";
import { announceGuest } from "./announce.js";
import { AttachedDevice } from "./attached-device.js";
import type { BackEndDevice } from "./back-end-device.js";
import { deviceFeature, featureSet } from "./features.js";
import { attachFrontEnd, serveDevice } from "./fixture.js";

const MAC = Buffer.from("525400a1b2c3", "hex");
const ROUNDS = { rounds: 3, firstGapMs: 1, stepMs: 1, gapMaxMs: 2 };

describe("announcement after a migration", () => {
  const announced: string[] = [];
  const network: BackEndDevice = {
    features: featureSet(deviceFeature.guestAnnounce),
    queues: 1,
    serve: () => {},
    announce: (mac) => announced.push(Buffer.from(mac).toString("hex")),
  };
  beforeEach(() => announced.splice(0));

  async function withDevice(device: BackEndDevice, features: bigint, act: (device: AttachedDevice) => Promise<void>) {
    const served = serveDevice(device);
    const frontEnd = await attachFrontEnd(served.socket);
    try {
      await act(new AttachedDevice(frontEnd, { features, memory: [], rings: [], events: [] }));
    } finally {
      frontEnd.close();
      await served.ended;
    }
  }

  it("is the back-end's, every round, for a guest that does not announce itself", async () => {
    await withDevice(network, 0n, async (device) => {
      assert.equal(await announceGuest({ device, mac: MAC, rounds: ROUNDS }), "back-end");
    });
    assert.deepEqual(announced, ["525400a1b2c3", "525400a1b2c3", "525400a1b2c3"]);
  });

  it("is the guest's, if its driver agreed to that", async () => {
    let asked = 0;
    await withDevice(network, network.features, async (device) => {
      const askGuest = () => void asked++;
      assert.equal(await announceGuest({ device, mac: MAC, rounds: ROUNDS, askGuest }), "guest");
      assert.equal(await announceGuest({ device, mac: MAC, rounds: ROUNDS }), "nobody");
    });
    assert.deepEqual([asked, announced], [3, []]);
  });

  it("is nobody's where the back-end cannot", async () => {
    await withDevice({ features: 0n, queues: 1, serve: () => {} }, 0n, async (device) => {
      assert.equal(await announceGuest({ device, mac: MAC, rounds: ROUNDS }), "nobody");
    });
  });

  it("ends when it is told to", async () => {
    const controller = new AbortController();
    const rounds = { ...ROUNDS, firstGapMs: 60_000, gapMaxMs: 60_000 };
    await withDevice(network, 0n, async (device) => {
      const announcing = announceGuest({ device, mac: MAC, rounds, signal: controller.signal });
      controller.abort();
      await assert.rejects(announcing, { name: "AbortError" });
    });
  });
});
