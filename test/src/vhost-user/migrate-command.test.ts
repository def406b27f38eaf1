/**
 * `multifd migrate` and `receive` with `--vhost-user`: one command on each side moves a guest's RAM, its back-end's
 * state and where its rings stand. The back-ends are virtiofsds, the guest reads a file through them all the time.
 */

import assert from "node:assert/strict";
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { runCommandLine } from "@multifd/cli";
import { filesLeftOpen, type OpenFiles, openFiles } from "@multifd/native/fixture-open-files";
import { BackEnd } from "@multifd/peer-vhost-user";
import {
  BackEndProcess,
  ControlGuest,
  createScratchDir,
  DriverQueue,
  FUSE_ROOT,
  FuseSession,
  type GuestMemory,
  removeScratchDir,
  virtiofsd,
} from "../peers/index.js";

const CONTENT = "what a live migration must not lose\n";
const RINGS_AT = 0x1_0000;
const REQUESTS_AT = 0x2_0000;
const RUNS = [
  { guestAddress: 0, lengthBytes: 2 ** 20 },
  { guestAddress: 2 ** 32, lengthBytes: 2 ** 20 },
];

describe("multifd migrate --vhost-user", () => {
  let dir: string;
  let openBefore: OpenFiles;
  let count = 0;
  const closers: (() => unknown)[] = [];
  before(async () => {
    dir = createScratchDir("disk");
    mkdirSync(join(dir, "share", "d"), { recursive: true });
    writeFileSync(join(dir, "share", "d", "hello"), CONTENT);
    // The first command of a process, and its first stream, open what stays open: see to that before it is counted.
    await run(["vhost-user", "attach", "--guest", `unix:${join(dir, "nobody")}`]);
    await (await startBackEnd()).process.stop();
  });
  beforeEach(() => {
    openBefore = openFiles();
  });
  afterEach(async () => {
    for (const close of closers.splice(0).reverse()) await close();
    assert.deepEqual(await filesLeftOpen(openBefore), [], "no descriptor is left");
  });
  after(() => removeScratchDir(dir));

  async function startBackEnd(): Promise<{ socket: string; process: BackEndProcess }> {
    const socket = join(dir, `fs${count++}.sock`);
    const process = new BackEndProcess(virtiofsd(socket, join(dir, "share")));
    closers.push(() => process.stop());
    await process.listens(socket);
    return { socket, process };
  }

  async function startGuest(more: { readonly mac?: string } = {}): Promise<ReadingLife> {
    const queuesOf = (memory: GuestMemory) =>
      [0, 1].map((index) => new DriverQueue(memory, index, RINGS_AT + index * 0x3000, 16));
    const guest = await ControlGuest.start(join(dir, `guest${count++}.sock`), RUNS, queuesOf, more);
    const life = new ReadingLife(guest);
    closers.push(async () => {
      await life.end();
      await guest.close();
    });
    return life;
  }

  type Said = { readonly event?: string; readonly code?: string; readonly message: string; readonly devices?: unknown };
  type Ended = {
    readonly code: number;
    readonly last: Said;
  };

  /** Runs a command line; `says` is told every event. */
  async function run(words: readonly string[], says: (event: string) => void = () => {}): Promise<Ended> {
    let last: Ended["last"] = { message: "nothing was said" };
    const code = await runCommandLine([...words, "--json"], {
      out: (text) => {
        for (const line of text.split("\n").filter((line) => line !== "")) {
          last = JSON.parse(line);
          says(last.event ?? "");
        }
      },
      err: () => {},
      isInteractive: false,
      columns: () => 80,
    });
    return { code, last };
  }

  /** A guest with an open file, reading it. */
  async function startReading(): Promise<{ life: ReadingLife; socket: string }> {
    const { socket } = await startBackEnd();
    const life = await startGuest();
    const attached = await run([
      ...["vhost-user", "attach", "--guest", life.guest.address, "--vhost-user", `files=${socket}`],
    ]);
    assert.deepEqual([attached.code, attached.last], [0, { event: "completed", devices: ["files"] }]);
    await life.open();
    life.resume();
    return { life, socket };
  }

  async function migrate(from: ReadingLife, fromSocket: string, to: ReadingLife, toSocket: string) {
    const path = `unix:${join(dir, `migration${count++}`)}`;
    const receive = ["receive", "--listen", path, "--guest", to.guest.address, "--vhost-user", `files=${toSocket}`];
    let received: Promise<Ended> = Promise.reject(new Error("never begun"));
    received.catch(() => {});
    await new Promise<void>((resolve) => {
      received = run(receive, resolve as () => void);
    });
    const sent = await run([
      ...["migrate", "--guest", from.guest.address, "--to", path],
      ...["--vhost-user", `files=${fromSocket}`],
    ]);
    return [await received, sent] as const;
  }

  it("moves a guest, its back-end's state and its rings; and moves it once more from there", async () => {
    const { life, socket } = await startReading();
    let [from, fromSocket] = [life, socket];
    for (let hop = 0; hop < 2; hop++) {
      await from.readsMore(20);
      const to = await startGuest();
      const backEnd = await startBackEnd();
      const [received, sent] = await migrate(from, fromSocket, to, backEnd.socket);
      assert.deepEqual([received.last, received.code], [{ ...received.last, event: "completed" }, 0]);
      assert.deepEqual([sent.last, sent.code], [{ ...sent.last, event: "completed" }, 0]);
      assert.equal(from.isRunning, false);
      assert.ok(to.guest.hasConnection && to.isRunning);
      await to.readsMore(50);
      [from, fromSocket] = [to, backEnd.socket];
    }
  });

  it("leaves the guest with its back-end when the one that waits refuses it", async () => {
    const { life, socket } = await startReading();
    const to = await startGuest();
    const other = await startBackEnd();
    to.refuses = "not this guest";
    const [received, sent] = await migrate(life, socket, to, other.socket);
    assert.deepEqual([received.code, received.last.code], [1, "GUEST_REFUSED"]);
    assert.deepEqual([sent.code, sent.last.code], [1, "PEER_REFUSED"]);
    assert.ok(life.isRunning && !to.isRunning);
    await life.readsMore(20);
  });

  it("has a device announced by its back-end where the guest has moved to", async () => {
    const announced: [socket: string, mac: string][] = [];
    const serve = async () => {
      const socket = join(dir, `net${count++}.sock`);
      const device = {
        features: 0n,
        queues: 2,
        serve: () => {},
        announce: (mac: Uint8Array) => announced.push([socket, Buffer.from(mac).toString("hex")]),
      };
      const backEnd = await BackEnd.listen(socket, device, () => {});
      closers.push(() => backEnd.close());
      return socket;
    };
    const idle = async () => {
      const life = await startGuest({ mac: "52:54:00:a1:b2:c3" });
      life.guest.life = { pause: async () => {}, resume: () => {}, save: () => Buffer.from("idle"), load: () => {} };
      return life;
    };
    const [source, destination] = [await serve(), await serve()];
    const [received, sent] = await migrate(await idle(), source, await idle(), destination);
    assert.deepEqual([received.last.event, sent.last.event], ["completed", "completed"]);
    assert.deepEqual(
      announced,
      Array.from({ length: 5 }, () => [destination, "525400a1b2c3"]),
    );
  });

  it("names a device that the command line has forgotten, and one that the guest has not", async () => {
    const life = await startGuest();
    const base = ["migrate", "--guest", life.guest.address, "--to", `unix:${join(dir, "nobody")}`];
    const forgotten = await run(base);
    assert.deepEqual([forgotten.code, forgotten.last.code], [1, "GUEST_DEVICE"]);
    assert.match(forgotten.last.message, /--vhost-user files=SOCKET/);
    const surplus = await run([...base, "--vhost-user", "files=/x", "disk=/y"]);
    assert.deepEqual([surplus.code, surplus.last.code], [1, "GUEST_DEVICE"]);
    assert.match(surplus.last.message, /no vhost-user device "disk"; it has "files"/);
  });
});

/** What runs in the guest: it reads one file over and over; its state is where its drivers and its session stand. */
class ReadingLife {
  readonly guest: ControlGuest;
  /** Set: a state that comes is refused with it. */
  refuses: string | null = null;
  isRunning = false;
  #session: FuseSession;
  #node = 0;
  #handle = 0n;
  #reads = 0;
  #reading: Promise<void> = Promise.resolve();
  #failure: unknown = null;

  constructor(guest: ControlGuest) {
    this.guest = guest;
    this.#session = new FuseSession(guest.memory, guest.queues[1]!, REQUESTS_AT);
    guest.life = {
      pause: () => this.pause(),
      resume: () => this.resume(),
      save: () => this.#save(),
      load: (state) => this.#load(state),
    };
  }

  async open(): Promise<void> {
    await this.#session.init();
    this.#node = await this.#session.lookup(await this.#session.lookup(FUSE_ROOT, "d"), "hello");
    this.#handle = await this.#session.open(this.#node);
  }

  resume(): void {
    this.isRunning = true;
    this.#reading = this.#run();
  }

  async pause(): Promise<void> {
    this.isRunning = false;
    await this.#reading;
  }

  async end(): Promise<void> {
    for (const queue of this.guest.queues) queue.giveUp();
    await this.pause();
  }

  async readsMore(reads: number): Promise<void> {
    const due = this.#reads + reads;
    while (this.#reads < due) {
      if (this.#failure) throw this.#failure;
      await new Promise((resolve) => setImmediate(resolve));
    }
  }

  async #run(): Promise<void> {
    try {
      while (this.isRunning) {
        assert.equal(await this.#session.read(this.#node, this.#handle, 4096), CONTENT);
        this.#reads++;
      }
    } catch (error) {
      this.#failure = error;
    }
  }

  #save(): Buffer {
    const drivers = this.guest.queues.map((queue) => queue.save());
    return Buffer.from(
      JSON.stringify({ drivers, node: this.#node, handle: String(this.#handle), unique: String(this.#session.unique) }),
    );
  }

  #load(state: Buffer): void {
    if (this.refuses !== null) throw new Error(this.refuses);
    const { drivers, node, handle, unique } = JSON.parse(state.toString());
    for (const [at, queue] of this.guest.queues.entries()) queue.load(drivers[at]);
    this.#node = node;
    this.#handle = BigInt(handle);
    this.#session.unique = BigInt(unique);
  }
}
