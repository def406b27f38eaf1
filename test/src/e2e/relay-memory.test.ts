/** A relay in front of a slow destination: the source waits, and the relay does not grow. */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createConnection, createServer, type Socket } from "node:net";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { formatAddress, parseAddress } from "@multifd/channel";
import { runSource, StoppedRam } from "@multifd/engine";
import { QemuSourcePeer } from "@multifd/peer-qemu";
import {
  assertSameBytes,
  createScratchDir,
  MultifdProcess,
  mixedImage,
  removeScratchDir,
  zeroImage,
} from "../peers/index.js";
import { startReceiver } from "./receiver.js";

const MIB = 2 ** 20;
const BYTES = 256 * MIB;
/** 2 MiB a channel, and what Node and the codecs of four threads take on top. */
const GROWTH_BYTES_MAX = 80 * MIB;

/** A link that passes 256 KiB of each connection every two milliseconds or so. @returns Ends it. */
async function slowLink(from: string, to: string): Promise<() => void> {
  const sockets: Socket[] = [];
  const server = createServer({ allowHalfOpen: true }, (near) => {
    const far = createConnection({ path: to, allowHalfOpen: true });
    sockets.push(near, far);
    void pass(near, far);
    void pass(far, near);
  });
  await new Promise<void>((resolve) => server.listen(from, resolve));
  return () => {
    for (const socket of sockets) socket.destroy();
    server.close();
  };
}

async function pass(from: Socket, to: Socket): Promise<void> {
  try {
    for await (const chunk of from) {
      if (!to.write(chunk)) await new Promise((resolve) => to.once("drain", resolve));
      if ((chunk as Buffer).length > 4096) await sleep(1);
    }
    to.end();
  } catch {
    to.destroy(); // either end is gone: so is the link
  }
}

function residentBytes(pid: number): { readonly now: number; readonly most: number } {
  const status = readFileSync(`/proc/${pid}/status`, "utf8");
  const kibibytes = (field: string) => Number(new RegExp(`^${field}:\\s+(\\d+) kB$`, "m").exec(status)![1]);
  return { now: kibibytes("VmRSS") * 1024, most: kibibytes("VmHWM") * 1024 };
}

describe("a relay between a fast source and a slow destination", () => {
  let dir: string;
  before(() => {
    dir = createScratchDir();
  });
  after(() => removeScratchDir(dir));

  it("holds a few packets, however much there is to pass, and loses none", async () => {
    const path = (name: string) => join(dir, name);
    mixedImage(path("sent"), BYTES, 5);
    zeroImage(path("received"), BYTES);
    const receiver = await startReceiver({
      listen: `unix:${path("out")}`,
      channels: 2,
      compression: "none",
      ram: { ram: path("received") },
    });
    const endLink = await slowLink(path("link"), formatAddress(receiver.address).slice("unix:".length));
    const relay = new MultifdProcess("relay", "--listen", `unix:${path("in")}`, "--to", `unix:${path("link")}`);
    const guest = StoppedRam.open(new Map([["ram", path("sent")]]), 4096, { kept: [], blockNames: [] });
    try {
      await relay.waitFor(({ event }) => event === "listening");
      const given = runSource({
        guest,
        peer: new QemuSourcePeer({ address: parseAddress(`unix:${path("in")}`), channels: 2, connectTimeoutMs: 5000 }),
        onEvent: () => {},
        compression: "none",
        level: 1,
        devices: null,
        downtimeLimitMs: 0,
        maxBandwidth: 0,
        roundsMax: 1,
        atRoundLimit: "switchover",
        stallTimeoutMs: 20_000,
      });
      await relay.waitFor(({ event }) => event === "connected");
      const before = residentBytes(relay.pid).now;
      let most = before;
      const done = { is: false };
      const watching = relay.outcome.then(() => {
        done.is = true;
      });
      while (!done.is) {
        try {
          most = Math.max(most, residentBytes(relay.pid).most);
        } catch {
          break; // it has just ended
        }
        await Promise.race([watching, sleep(20)]);
      }
      assert.equal((await given).acknowledged, true);
      assert.equal((await relay.outcome).last.event, "completed");
      assert.ok(most > before, "it was looked at while it worked");
      assert.ok(most - before < GROWTH_BYTES_MAX, `it grew by ${Math.round((most - before) / MIB)} MiB`);
      assertSameBytes(path("sent"), path("received"));
    } finally {
      relay.signal("SIGKILL");
      guest.close();
      endLink();
      await receiver.result.catch(() => {});
    }
  });
});
