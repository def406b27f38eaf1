/**
 * Cloud Hypervisor's wire beside multifd's own: the same random RAM, from file to file, in turns.
 *
 * Random pages, for that wire carries zeros as they are. With one connection each and with
 * eight; both ends are ours, since what is compared is what our engine makes of the two protocols.
 *
 *     node bench/dist/cloud-hypervisor.js [RAM in MiB] [rounds]
 */
import { rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { assertSameBytes, createScratchDir, randomImage, removeScratchDir } from "@multifd/test/peers";
import { runSource, startDestination } from "./event-endpoint.js";
import { heldCommand } from "./multifd-endpoint.js";
import { median, medianRatio, spread } from "./statistics.js";

const CONNECTIONS = [1, 8] as const;
const ZONE = "mem0";

const [ramMib = "1024", rounds = "5"] = process.argv.slice(2);
const ramBytes = Number(ramMib) * 2 ** 20;
const dir = createScratchDir("ram");
const path = (name: string) => join(dir, name);

/** One migration. @returns Seconds, as the source tells them. */
type Way = { readonly name: string; readonly run: (connections: number) => Promise<number> };

function multifd(connections: number): Promise<number> {
  const flags = ["--channels", `${connections}`];
  const ram = (name: string) => ["--ram", `pc.ram=${path(name)}`];
  return move(["receive", ...flags, ...ram("received")], ["send", ...flags, ...ram("image")]);
}

function cloudHypervisor(connections: number): Promise<number> {
  const vm = (name: string) => [
    ...["--connections", `${connections}`, "--ram", `${ZONE}=${path(name)}`],
    ...["--config", path(`${name}.config`), "--state", path(`${name}.state`)],
  ];
  return move(["cloud-hypervisor", "receive", ...vm("received")], ["cloud-hypervisor", "send", ...vm("image")]);
}

async function move(receive: readonly string[], send: readonly string[]): Promise<number> {
  const listen = ["--json", "--listen", `unix:${path("socket")}`];
  const receiver = await startDestination("receive", process.execPath, heldCommand(...receive, ...listen));
  try {
    const to = ["--json", "--to", receiver.address];
    const [{ wallMs }] = await Promise.all([
      runSource("send", process.execPath, heldCommand(...send, ...to)),
      receiver.completed(),
    ]);
    return wallMs / 1000;
  } finally {
    await receiver.stop();
  }
}

/** What a release from 39.0 on says of a VM with one run of RAM, as far as a migration looks at it. */
function writePayloads(): void {
  const mapping = { slot: 0, gpa: 0, size: ramBytes, zone_id: ZONE, virtio_mem: false, file_offset: 0 };
  const memory = { memory_ranges: { data: [{ gpa: 0, length: ramBytes }] }, guest_ram_mappings: [mapping] };
  const config = { vm_config: { memory: { size: ramBytes } }, common_cpuid: [], memory_manager_data: memory };
  const saved = { state: JSON.stringify(memory) };
  const state = { snapshots: { "memory-manager": { snapshots: {}, snapshot_data: saved } } };
  writeFileSync(path("image.config"), JSON.stringify(config));
  writeFileSync(path("image.state"), JSON.stringify(state));
}

const own: Way = { name: "multifd, none", run: multifd };
const ways: readonly Way[] = [own, { name: "Cloud Hypervisor", run: cloudHypervisor }];

try {
  randomImage(path("image"), ramBytes, 1);
  writePayloads();
  for (const connections of CONNECTIONS) {
    const measured = new Map<Way, number[]>(ways.map((way) => [way, []]));
    for (let round = 0; round <= Number(rounds); round++) {
      for (const way of ways) {
        const seconds = await way.run(connections);
        if (round === 0) assertSameBytes(path("image"), path("received"));
        else measured.get(way)!.push(seconds);
        for (const name of ["received", "received.config", "received.state"]) rmSync(path(name), { force: true });
      }
    }
    for (const way of ways) {
      const seconds = measured.get(way)!;
      const { min, max } = spread(seconds);
      const ratio = medianRatio(measured.get(own)!, seconds).toFixed(2);
      process.stdout.write(
        `${connections} × ${way.name.padEnd(18)} ${median(seconds).toFixed(2)} s (${min.toFixed(2)}–${max.toFixed(2)})  × multifd ${ratio}\n`,
      );
    }
  }
} finally {
  removeScratchDir(dir);
}
