import assert from "node:assert/strict";
import { DEVICE_STATE_BYTES_MAX, DeviceStage } from "./device-stage.js";

const name = (text: string) => Buffer.from(text, "utf8");

describe("device stage", () => {
  it("hands a state over to whoever shares its memory", () => {
    const stage = new DeviceStage();
    const other = new DeviceStage(stage.shared);
    const state = Uint8Array.from({ length: 1000 }, (_, i) => i);
    const place = stage.put(name("0000:00:02.0/vfio-größe"), 0xffff_fffe, [state.subarray(0, 12), state.subarray(12)]);
    const out = new Uint8Array(DEVICE_STATE_BYTES_MAX);
    assert.deepEqual(other.take(place, out), {
      idstr: "0000:00:02.0/vfio-größe",
      instanceId: 0xffff_fffe,
      stateBytes: 1000,
    });
    assert.deepEqual(out.subarray(0, 1000), state);
  });

  it("holds the longest name and the largest state in every place at once", () => {
    const stage = new DeviceStage();
    const states = [1, 2, 3, 4].map((fill) => new Uint8Array(DEVICE_STATE_BYTES_MAX).fill(fill));
    const places = states.map((state, index) => stage.put(name(`${index}`.repeat(255)), index, [state]));
    assert.deepEqual(places, [0, 1, 2, 3]);
    const out = new Uint8Array(DEVICE_STATE_BYTES_MAX);
    for (const [index, place] of places.entries()) {
      assert.equal(stage.take(place, out).idstr, `${index}`.repeat(255));
      assert.deepEqual(out, states[index]);
    }
  });

  it("has no place while all are taken, and takes the next state where one was freed", () => {
    const stage = new DeviceStage();
    const state = Uint8Array.of(7);
    for (let i = 0; i < 4; i++) stage.put(name("d"), i, [state]);
    assert.equal(stage.put(name("d"), 4, [state]), -1);
    stage.take(2, new Uint8Array(1));
    assert.equal(stage.put(name("d"), 4, [state]), 2);
    assert.equal(stage.take(2, new Uint8Array(1)).instanceId, 4);
  });
});
