import assert from "node:assert/strict";
import { dialectOf } from "./dialect.js";

describe("dialect of a QEMU destination", () => {
  for (const [machineType, syncPer, zeroPages, switchoverStart] of [
    ["pc-i440fx-7.2", "section", "on-main", false],
    ["pc-q35-8.0", "section", "on-main", false],
    ["pc-q35-8.2", "round", "on-main", false],
    ["pc-q35-9.2", "round", "in-packets", false],
    ["virt-10.0", "round", "in-packets", true],
    ["microvm", "round", "in-packets", true],
  ] as const)
    it(`is that of its machine type: ${machineType}`, () => {
      assert.deepEqual(dialectOf(machineType, {}), { syncPer, zeroPages, switchoverStart });
    });

  it("is, feature by feature, what the operator knows better", () => {
    const old = { syncPer: "section", zeroPages: "on-main", switchoverStart: false } as const;
    assert.deepEqual(dialectOf("microvm", old), old);
    assert.deepEqual(dialectOf("pc-q35-7.2", { syncPer: "round" }), { ...old, syncPer: "round" });
  });
});
