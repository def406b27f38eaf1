import assert from "node:assert/strict";
import { ERAS, type EraName, eraOfRelease, knowsCommand, takesVersion } from "./eras.js";
import { COMMAND, type CommandName } from "./message.js";

describe("eras of Cloud Hypervisor", () => {
  it("are found by release", () => {
    const releases: readonly (readonly [release: string, era: EraName])[] = [
      ["v0.12.0", "v12"],
      ["0.14.1", "v12"],
      ["v15.0", "v12"],
      ["21", "v21"],
      ["v28.4", "v21"],
      ["v43.0", "v43"],
      ["v49", "v43"],
      ["v50.0", "v50"],
      ["v51.1", "v50"],
      ["v52.0", "v52"],
      ["v53.0", "v53"],
      ["next", "next"],
    ];
    for (const [release, era] of releases) assert.equal(eraOfRelease(release).name, era, release);
  });

  it("have none for a release that does not migrate, or is none", () => {
    for (const release of ["v0.11", "", "v", "main", "53.x", "v1000"]) {
      assert.throws(() => eraOfRelease(release), { code: "CLOUD_HYPERVISOR_RELEASE" }, release);
    }
  });

  it("know the commands of their time", () => {
    const known = (era: EraName) =>
      (Object.keys(COMMAND) as CommandName[]).filter((command) => knowsCommand(ERAS[era], command)).length;
    assert.deepEqual(
      (Object.keys(ERAS) as EraName[]).map((era) => known(era)),
      [6, 7, 7, 7, 8, 9, 9],
    );
  });

  it("look at Start's version from 53.0 on", () => {
    assert.deepEqual(
      [takesVersion(ERAS.v52, 7), takesVersion(ERAS.v53, 0), takesVersion(ERAS.v53, 1), takesVersion(ERAS.next, 1)],
      [true, true, false, false],
    );
  });
});
