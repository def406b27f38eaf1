import assert from "node:assert/strict";
import {
  expectsSwitchoverStart,
  machineTypeVersion,
  takesZeroPagesInPackets,
  usesPerRoundSync,
} from "./machine-type.js";

describe("machine type", () => {
  for (const [machineType, perRoundSync, zeroPagesInPackets, switchoverStart] of [
    ["pc-i440fx-2.12", false, false, false],
    ["pc-q35-7.2", false, false, false],
    ["virt-8.0", false, false, false],
    ["pc-q35-8.1", true, false, false],
    ["pc-q35-8.2", true, false, false],
    ["pc-i440fx-9.0", true, true, false],
    ["pc-i440fx-9.2", true, true, false],
    ["pc-q35-10.0", true, true, true],
    ["virt-11.1", true, true, true],
    ["pc", true, true, true],
    ["microvm", true, true, true],
  ] as const)
    it(`${machineType} syncs per ${perRoundSync ? "round" : "section"}, zero pages ${zeroPagesInPackets ? "" : "not "}in packets, SWITCHOVER_START ${switchoverStart ? "" : "un"}known`, () => {
      assert.equal(usesPerRoundSync(machineType), perRoundSync);
      assert.equal(takesZeroPagesInPackets(machineType), zeroPagesInPackets);
      assert.equal(expectsSwitchoverStart(machineType), switchoverStart);
    });

  it("tells its version only if the name ends in one", () => {
    assert.deepEqual(machineTypeVersion("pc-i440fx-2.12"), { major: 2, minor: 12 });
    assert.equal(machineTypeVersion("pc-q35-rhel9.4.0"), null);
  });
});
