import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { networkInterfaces, tmpdir } from "node:os";
import { join } from "node:path";
import { receiveInThread } from "./fixture.js";
import { peekBytes, pollReadable, receiveBytes, sendBytes, setSocketTimeout } from "./socket-streams.js";
import {
  acceptSocket,
  closeDescriptor,
  connectSocket,
  listenSocket,
  localPort,
  type SocketAddress,
  shutdownSending,
  shutdownSocket,
  socketPair,
} from "./sockets.js";

const folder = mkdtempSync(join(tmpdir(), "multifd-sockets-"));
after(() => rmSync(folder, { recursive: true }));

const addresses: readonly (readonly [string, SocketAddress])[] = [
  ["IPv4", { family: 4, host: "127.0.0.1", port: 0 }],
  ["IPv6", { family: 6, host: "::1", port: 0 }],
  ["a unix path", { family: 1, path: join(folder, "socket") }],
  ["an abstract unix name", { family: 1, path: `@multifd-test-${process.pid}` }],
];

function withPort(address: SocketAddress, port: number): SocketAddress {
  return address.family === 1 ? address : { ...address, port };
}

describe("sockets", () => {
  for (const [name, address] of addresses) {
    it(`connect, carry bytes both ways and end over ${name}`, async () => {
      const hasIpv6 = Object.values(networkInterfaces()).some((all) => all?.some((one) => one.address === "::1"));
      assert.ok(address.family !== 6 || hasIpv6, "this machine has no IPv6 loopback address");
      const listener = listenSocket(address, 4);
      assert.equal(acceptSocket(listener), null);
      const ours = await connectSocket(withPort(address, localPort(listener)), 5000);
      assert.deepEqual(await pollReadable([listener], 5000), [true]);
      const theirs = acceptSocket(listener);
      assert.ok(theirs !== null);
      sendBytes(ours, Uint8Array.of(1, 2, 3));
      shutdownSending(ours);
      sendBytes(theirs, Uint8Array.of(4));
      const out = new Uint8Array(8);
      assert.equal(receiveBytes(theirs, out), 3);
      assert.deepEqual([...out.subarray(0, 3)], [1, 2, 3]);
      assert.equal(receiveBytes(ours, out.subarray(0, 1)), 1);
      assert.equal(out[0], 4);
      for (const fd of [ours, theirs, listener]) closeDescriptor(fd);
      await assert.rejects(connectSocket(withPort(address, localPortFree(address)), 5000), {
        name: "ChannelError",
        code: "CONNECT_FAILED",
      });
    });
  }

  /** A port on which nobody listens: bound for a moment, and let go. */
  function localPortFree(address: SocketAddress): number {
    if (address.family === 1) return 0;
    const listener = listenSocket(address, 1);
    const port = localPort(listener);
    closeDescriptor(listener);
    return port;
  }

  it("call a unix path that is not there yet a failed connect", async () => {
    await assert.rejects(connectSocket({ family: 1, path: join(folder, "absent") }, 1000), { code: "CONNECT_FAILED" });
  });

  it("refuse a unix path that does not fit an address", async () => {
    const path = join(folder, "x".repeat(120));
    await assert.rejects(connectSocket({ family: 1, path }, 1000), { code: "SYSTEM_ENAMETOOLONG" });
    assert.throws(() => listenSocket({ family: 1, path }, 1), { code: "SYSTEM_ENAMETOOLONG" });
  });

  it("say so when somebody else listens there", () => {
    const address: SocketAddress = { family: 1, path: join(folder, "taken") };
    const listener = listenSocket(address, 1);
    assert.throws(() => listenSocket(address, 1), { name: "SystemError", code: "SYSTEM_EADDRINUSE" });
    closeDescriptor(listener);
  });

  it("give up on a listener that never accepts", async () => {
    const address: SocketAddress = { family: 1, path: join(folder, "full") };
    const listener = listenSocket(address, 0);
    const first = await connectSocket(address, 1000);
    await assert.rejects(connectSocket(address, 20), { code: "CHANNEL_TIMEOUT" });
    closeDescriptor(first);
    closeDescriptor(listener);
  });

  it("wake a receive blocked in another thread when shut down", async () => {
    const [ours, theirs] = socketPair();
    sendBytes(ours, Uint8Array.of(7));
    const { received } = await receiveInThread(theirs, 100);
    shutdownSocket(theirs);
    const bytes = await received;
    assert.ok(bytes.byteLength <= 1);
    closeDescriptor(ours);
    closeDescriptor(theirs);
  });

  it("may be shut down twice, and after they are gone", () => {
    const [ours, theirs] = socketPair();
    shutdownSocket(ours);
    shutdownSocket(ours);
    shutdownSending(ours);
    closeDescriptor(ours);
    closeDescriptor(theirs);
    shutdownSocket(ours);
    shutdownSending(ours);
    assert.throws(() => closeDescriptor(ours), { name: "SystemError", code: "SYSTEM_EBADF" });
  });

  it("show the next bytes without taking them", () => {
    const [ours, theirs] = socketPair();
    const out = new Uint8Array(4);
    assert.equal(peekBytes(theirs, out), null);
    sendBytes(ours, Uint8Array.of(1, 2));
    assert.equal(peekBytes(theirs, out), 2);
    assert.equal(peekBytes(theirs, out), 2);
    assert.equal(receiveBytes(theirs, out.subarray(0, 2)), 2);
    closeDescriptor(ours);
    assert.equal(peekBytes(theirs, out), 0);
    closeDescriptor(theirs);
  });

  it("tell which of several descriptors can be read, ended ones too", async () => {
    const [a, b] = socketPair();
    const [c, d] = socketPair();
    const [e, f] = socketPair();
    sendBytes(a, Uint8Array.of(1));
    closeDescriptor(e);
    assert.deepEqual(await pollReadable([b, d, f], -1), [true, false, true]);
    assert.deepEqual(await pollReadable([d], 0), [false]);
    assert.deepEqual(await pollReadable([], 0), []);
    for (const fd of [a, b, c, d, f]) closeDescriptor(fd);
    await assert.rejects(pollReadable([a], 0), { code: "SYSTEM_EBADF" });
  });

  it("bound their waits when asked to", () => {
    const [ours, theirs] = socketPair();
    setSocketTimeout(theirs, 5);
    assert.throws(() => receiveBytes(theirs, new Uint8Array(1)), { name: "ChannelError", code: "CHANNEL_TIMEOUT" });
    assert.throws(() => sendBytes(theirs, new Uint8Array(64 << 20)), { code: "CHANNEL_TIMEOUT" });
    closeDescriptor(ours);
    closeDescriptor(theirs);
  });
});
