import assert from "node:assert/strict";
import { runCommandLine } from "../program.js";
import { recordingTerminal } from "../recording-terminal.js";
import { canMigrate, describeFindings, found, missing, required } from "./findings.js";

describe("findings", () => {
  it("lets a migration run as long as nothing required is missing", () => {
    const library = required(found("C library", "loaded"));
    const kvm = missing("/dev/kvm", "VMs run by emulation here", "load the kvm module");
    assert.equal(canMigrate([library, kvm]), true);
    assert.equal(canMigrate([required(missing("C library", "not built", "npm run build")), kvm]), false);
  });

  it("puts the remedy below what is missing", () => {
    const lines = describeFindings([found("zstd", "libzstd"), missing("kvm", "slow", "load it")]).split("\n");
    assert.deepEqual(lines, ["ok       zstd  libzstd", "missing  kvm   slow", "               load it", ""]);
  });
});

describe("multifd doctor", () => {
  it("tells as JSON that this machine can migrate, and names what it looked at", async () => {
    const terminal = recordingTerminal();
    assert.equal(await runCommandLine(["doctor", "--json"], terminal), 0);
    const { ready, findings } = JSON.parse(terminal.outText());
    assert.equal(ready, true);
    const names = findings.map((finding: { name: string }) => finding.name);
    for (const name of ["Node.js", "C library", "zstd", "dirty tracking", "/dev/shm", "QEMU", "virtiofsd"]) {
      assert.ok(names.includes(name), name);
    }
  });
});
