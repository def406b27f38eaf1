/**
 * Cloud Hypervisor's protocol and snapshots, from command to command: nothing is lost on any way between files,
 * sockets and snapshot directories. No Cloud Hypervisor runs here; its own bytes are held to in the protocol's tests.
 */
import assert from "node:assert/strict";
import { mkdirSync, readdirSync, readFileSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { mountSmallDisk, unmountSmallDisk } from "../fault/small-disk.js";
import {
  CLOUD_HYPERVISOR_CONFIG as CONFIG,
  createScratchDir,
  HIGH_BYTES,
  LOW_BYTES,
  MultifdProcess,
  makeAuthority,
  makeCertificates,
  removeScratchDir,
  CLOUD_HYPERVISOR_STATE as STATE,
  type StoredVm,
  storedVm,
  VM_CONFIG,
  writeStoredVm,
} from "../peers/index.js";

describe("multifd cloud-hypervisor", () => {
  let dir = "";
  let vm: StoredVm;
  beforeEach(() => {
    dir = createScratchDir();
    vm = writeStoredVm(dir, "vm");
  });
  afterEach(() => removeScratchDir(dir));

  const path = (name: string) => join(dir, name);
  const unix = () => `unix:${path("in.sock")}`;

  type Ends = { readonly from: readonly string[]; readonly into: readonly string[]; readonly listen?: string };

  /** Runs both ends to theirs. */
  async function move({ from, into, listen = unix() }: Ends) {
    const receiver = new MultifdProcess("cloud-hypervisor", "receive", "--listen", listen, ...into);
    const { address } = await receiver.waitFor(({ event }) => event === "listening");
    const sent = await MultifdProcess.run("cloud-hypervisor", "send", "--to", address!, ...from);
    return { sent, received: await receiver.outcome };
  }

  async function moveWell(ends: Ends): Promise<void> {
    const { sent, received } = await move(ends);
    assert.equal(sent.last.event, "completed", `send: ${JSON.stringify(sent.last)} ${sent.stderr}`);
    assert.equal(received.last.event, "completed", `receive: ${JSON.stringify(received.last)} ${received.stderr}`);
  }

  const assertSnapshot = (name: string) => {
    assert.deepEqual(readdirSync(path(name)).sort(), ["config.json", "memory-ranges", "state.json"]);
    assert.equal(readFileSync(join(path(name), "config.json"), "utf8"), VM_CONFIG);
    assert.equal(readFileSync(join(path(name), "state.json"), "utf8"), STATE);
    const ram = Buffer.concat([readFileSync(vm.high), readFileSync(vm.low)]);
    assert.ok(readFileSync(join(path(name), "memory-ranges")).equals(ram), "RAM is not what was sent");
  };

  const assertFiles = ({ low, high, config, state }: StoredVm) => {
    assert.ok(readFileSync(low).equals(readFileSync(vm.low)), "low RAM is not what was sent");
    assert.ok(readFileSync(high).equals(readFileSync(vm.high)), "high RAM is not what was sent");
    assert.equal(readFileSync(config, "utf8"), CONFIG);
    assert.equal(readFileSync(state, "utf8"), STATE);
  };

  it("takes a VM from files into a snapshot directory, and from there into files, to the byte", async () => {
    await moveWell({ from: vm.flags, into: ["--out", path("snapshot")] });
    assertSnapshot("snapshot");
    const copy = storedVm(dir, "copy");
    const several = ["--connections", "4", "--release", "v53"];
    await moveWell({
      from: ["--from", path("snapshot"), ...several],
      into: [...copy.flags, ...several],
      listen: "tcp:127.0.0.1:0",
    });
    assertFiles(copy);
  });

  for (const release of ["v12", "v28", "v50", "v52", "next"]) {
    it(`moves it as release ${release} does`, async () => {
      mkdirSync(path("snapshot"));
      await moveWell({ from: [...vm.flags, "--release", release], into: ["--out", path("snapshot")] });
      assertSnapshot("snapshot");
    });
  }

  it("copies RAM that comes as descriptors", async () => {
    const copy = storedVm(dir, "copy");
    await moveWell({ from: [...vm.flags, "--memory", "descriptors"], into: copy.flags });
    assertFiles(copy);
    await moveWell({ from: [...copy.flags, "--memory", "descriptors"], into: ["--out", path("snapshot")] });
    assertSnapshot("snapshot");
  });

  it("fetches RAM on demand, leaves the guest paused, and encrypts", async () => {
    const onDemand = ["--memory", "on-demand"];
    await moveWell({ from: [...vm.flags, ...onDemand], into: ["--out", path("on-demand"), ...onDemand] });
    assertSnapshot("on-demand");
    await moveWell({ from: [...vm.flags, "--leave-paused"], into: ["--out", path("paused")] });
    assertSnapshot("paused");
    const certificates = path("certificates");
    makeAuthority(path("authority"));
    makeCertificates(certificates, path("authority"));
    const creds = ["--tls-creds", certificates];
    await moveWell({
      from: [...vm.flags, ...creds, "--tls-hostname", "localhost"],
      into: ["--out", path("encrypted"), ...creds],
      listen: "tcp:127.0.0.1:0",
    });
    assertSnapshot("encrypted");
  });

  /** Both ends fail; nothing is left that looks like a snapshot. */
  async function moveBadly(ends: Ends, receiverSays: string): Promise<void> {
    const { sent, received } = await move(ends);
    assert.deepEqual([received.last.event, received.last.code], ["failed", receiverSays], received.last.message);
    assert.deepEqual([sent.last.event, sent.last.code], ["failed", "PEER_REFUSED"], sent.last.message);
    assert.deepEqual(
      readdirSync(dir).filter((name) => name.startsWith("snapshot")),
      [],
    );
  }

  it("refuses, while the source still has it, a VM that no snapshot can keep", async () => {
    const into = ["--out", path("snapshot")];
    writeFileSync(
      vm.state,
      STATE.replaceAll(`{\\"gpa\\":0,\\"length\\":${LOW_BYTES}}`, `{\\"gpa\\":0,\\"length\\":4096}`),
    );
    await moveBadly({ from: vm.flags, into }, "SNAPSHOT_RAM_ELSEWHERE");
    writeFileSync(vm.state, STATE.slice(0, -1));
    await moveBadly({ from: vm.flags, into }, "JSON_SYNTAX");
  });

  it("fails at both ends when the disk is full, and leaves it empty", async () => {
    const disk = mountSmallDisk(3 * 2 ** 20);
    try {
      const { sent, received } = await move({ from: vm.flags, into: ["--out", join(disk, "snapshot")] });
      assert.equal(received.last.code, "SYSTEM_ENOSPC", received.last.message);
      assert.equal(sent.last.event, "failed");
      assert.deepEqual(readdirSync(disk), []);
    } finally {
      unmountSmallDisk(disk);
    }
  });

  it("neither overwrites what is there nor sends what is cut", async () => {
    await moveWell({ from: vm.flags, into: ["--out", path("snapshot")] });
    const again = await MultifdProcess.run(
      "cloud-hypervisor",
      "receive",
      "--listen",
      unix(),
      "--out",
      path("snapshot"),
    );
    assert.equal(again.last.code, "OUT_EXISTS");
    assertSnapshot("snapshot");
    truncateSync(join(path("snapshot"), "memory-ranges"), LOW_BYTES + HIGH_BYTES - 1);
    const cut = await MultifdProcess.run("cloud-hypervisor", "send", "--from", path("snapshot"), "--to", unix());
    assert.equal(cut.last.code, "SNAPSHOT_CUT");
    const missing = await MultifdProcess.run("cloud-hypervisor", "send", ...vm.flags.slice(2), "--to", unix());
    assert.equal(missing.last.code, "RAM_BLOCK_UNKNOWN", missing.last.message);
  });
});
