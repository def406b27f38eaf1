/**
 * A real operating system under load, migrated live by `multifd qemu migrate`: Debian's kernel, which writes to virtio-blk and
 * reads back what it wrote, pings through virtio-net and reads virtio-rng meanwhile, and checks itself.
 *
 * Slow, for a kernel boots under TCG; run by `npm run test:slow`.
 */
import assert from "node:assert/strict";
import { createConnection } from "node:net";
import { text } from "node:stream/consumers";
import { fileURLToPath } from "node:url";
import { assertSameBytes, MultifdProcess, type QemuVersion, type SerialConsole } from "../peers/index.js";
import { BOOT_MS, DEBIAN_RAM_BYTES, type DebianVm, DebianVms, requireDebianGuest } from "./debian-vms.js";

type Way = "attach" | "preload";
type Row = readonly [from: QemuVersion, to: QemuVersion, method: string, channels: number, way: Way];
const rows: readonly Row[] = [
  ["7.2", "7.2", "none", 1, "attach"],
  ["11.1", "11.1", "zstd", 4, "preload"],
  ["7.2", "11.1", "none", 4, "preload"],
  ["7.2", "11.1", "zstd", 1, "attach"],
];
const PRELOADED = fileURLToPath(new URL("build/multifd-track.so", import.meta.resolve("@multifd/kernel/package.json")));

/** Each counts its turns in a file, and what is wrong in another. */
const WORKLOAD = [
  // 64 KiB at one of 64 places behind the first MiB, to the disk, and back past every cache.
  "(i=0; while :; do i=$((i+1)); p=$((256+(i%64)*16)); yes $i | head -c 65536 >/tmp/w; " +
    "dd if=/tmp/w of=/dev/vda bs=4096 seek=$p conv=notrunc,fsync 2>/dev/null || echo write $i >>/tmp/bad; " +
    "dd if=/dev/vda iflag=direct bs=4096 skip=$p count=16 of=/tmp/r 2>/dev/null; " +
    "cmp -s /tmp/w /tmp/r || echo read $i >>/tmp/bad; echo $i >/tmp/disk; done) &",
  "(i=0; while :; do ping -c 1 -W 5 10.0.2.2 >/dev/null && i=$((i+1)) && echo $i >/tmp/net; done) &",
  "(i=0; while :; do [ $(head -c 32 /dev/hwrng | wc -c) = 32 ] || echo rng $i >>/tmp/bad; i=$((i+1)); echo $i >/tmp/rng; done) &",
  "(nc -ll -p 7 -e cat) &",
];
const COUNTERS = ["disk", "net", "rng"] as const;

async function counters(console: SerialConsole): Promise<number[]> {
  const found: number[] = [];
  for (const name of COUNTERS)
    found.push(Number(await console.run(`until [ -s /tmp/${name} ]; do :; done; cat /tmp/${name}`)));
  return found;
}

/** What comes back through the forwarded port. */
async function echo(port: number, words: string): Promise<string> {
  const socket = createConnection(port, "127.0.0.1");
  socket.setTimeout(60_000, () => socket.destroy(new Error("nothing came back")));
  socket.end(words);
  return await text(socket);
}

describe("a Debian guest under load, migrated by our data plane", function () {
  this.timeout(2 * BOOT_MS);
  let vms: DebianVms;
  before(requireDebianGuest);
  beforeEach(() => {
    vms = new DebianVms();
  });
  afterEach(() => vms.close());

  const migrate = async ([from, to, method, channels, way]: Row) => {
    const ram = (name: string) => ({ id: "pc.ram", path: vms.path(`${name}.ram`), bytes: DEBIAN_RAM_BYTES });
    const env = way === "preload" ? { LD_PRELOAD: PRELOADED, MULTIFD_TRACK: ram("first").path } : {};
    const first = await vms.boot(from, { ram: ram("first"), env });
    for (const line of WORKLOAD) await first.console.run(`{ ${line} }`);
    await first.console.run("until grep -q ':0007 ' /proc/net/tcp /proc/net/tcp6 2>/dev/null; do usleep 20000; done");
    const second = await vms.start("second", to, { ram: ram("second"), incoming: "defer" });
    assert.equal(await echo(first.port, "here"), "here");
    const before = await counters(first.console);

    const flags = ["--channels", String(channels), "--compression", method];
    const link = `unix:${vms.path("link")}`;
    const receiving = new MultifdProcess(
      ...["qemu", "incoming", "--qmp", second.qmp, "--listen", link, "--then", "pause", ...flags],
    );
    await receiving.waitFor(({ event }) => event === "listening");
    const sent = await MultifdProcess.run(
      ...["qemu", "migrate", "--qmp", first.qmp, "--to", link, ...flags],
      // The last round takes longer than the devices: QEMU may not load them before all of RAM is there.
      ...["--max-bandwidth", "48M", "--downtime-limit", "2000"],
    );
    const received = await receiving.outcome;
    assert.equal(sent.status, 0, `${sent.last.message}; ${sent.stderr}`);
    assert.equal(received.status, 0, `${received.last.message}; ${received.stderr}`);
    assert.equal(await first.vm.runState(), "postmigrate");
    assertSameBytes(ram("first").path, ram("second").path);
    await second.vm.execute("cont");
    await assertGoesOn(second, before, first.counted);
  };

  const assertGoesOn = async ({ console, port }: DebianVm, before: readonly number[], counted: number) => {
    await vms.checkLives(console, counted);
    assert.equal(await echo(port, "there"), "there");
    // Each loop takes another turn after another, whatever it was at when it was moved.
    for (let turn = 0, last = before; turn < 2; turn++) {
      const wait = COUNTERS.map((name, at) => `until [ "$(cat /tmp/${name})" -gt ${last[at]} ]; do usleep 50000; done`);
      await console.run(wait.join("; "));
      last = await counters(console);
    }
    assert.equal(await console.run("cat /tmp/bad 2>/dev/null; echo none"), "none");
  };

  for (const row of rows) {
    const [from, to, method, channels, way] = row;
    it(`works on, and finds nothing wrong: QEMU ${from} to ${to}, ${method}, ${channels} channels, ${way}`, () =>
      migrate(row));
  }
});
