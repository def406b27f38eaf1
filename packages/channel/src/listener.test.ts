import assert from "node:assert/strict";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { closeDescriptor, listenSocket, receiveBytes, sendBytes } from "@multifd/native";
import { type Address, parseAddress } from "./address.js";
import { Channel } from "./channel.js";
import { socketDirectory } from "./fixture.js";
import { Listener } from "./listener.js";

/** Connects to a listener and moves one byte, so that the two sockets are one connection. */
async function assertAnswers(listener: Listener, address: Address = listener.address): Promise<void> {
  const near = await Channel.connect(address, 1000);
  const far = listener.accept();
  assert.ok(far);
  sendBytes(near.descriptor, Uint8Array.of(42));
  const byte = new Uint8Array(1);
  receiveBytes(far.descriptor, byte);
  assert.deepEqual(byte, Uint8Array.of(42));
  near.close();
  far.close();
}

describe("listener", () => {
  const path = socketDirectory();
  const listeners: Listener[] = [];
  const listen = async (text: string) => {
    const listener = await Listener.listen(parseAddress(text), 2);
    listeners.push(listener);
    return listener;
  };
  afterEach(() => {
    for (const listener of listeners.splice(0)) listener.close();
  });

  it("tells the port that the system chose where 0 was asked for", async () => {
    const listener = await listen("tcp:127.0.0.1:0");
    assert.ok(listener.address.kind === "tcp" && listener.address.port > 0);
    await assertAnswers(listener);
  });

  it("listens on every interface, on IPv6 and on abstract unix names", async () => {
    for (const text of ["tcp::0", "tcp:[::1]:0", `unix:@multifd-listener-${process.pid}`]) {
      await assertAnswers(await listen(text));
    }
  });

  it("has nobody to accept until somebody connects", async () => {
    const listener = await listen(`unix:${path("socket")}`);
    assert.equal(listener.accept(), null);
    await assertAnswers(listener);
    assert.equal(listener.accept(), null);
  });

  it("takes over a unix path whose owner is gone", async () => {
    closeDescriptor(listenSocket({ family: 1, path: path("socket") }, 1));
    assert.ok(existsSync(path("socket")));
    await assertAnswers(await listen(`unix:${path("socket")}`));
  });

  it("refuses an address that somebody answers on, and leaves him alone", async () => {
    for (const text of [`unix:${path("socket")}`, "tcp:127.0.0.1:0"]) {
      const first = await listen(text);
      await assert.rejects(Listener.listen(first.address, 2), {
        name: "SystemError",
        code: "SYSTEM_EADDRINUSE",
        message: new RegExp(`^${text.split(":", 2).join(":")}`),
      });
      assert.equal(first.accept(), null, "he was connected to");
      await assertAnswers(first);
    }
  });

  it("never removes a file that is no socket", async () => {
    writeFileSync(path("image"), "somebody's disk");
    await assert.rejects(listen(`unix:${path("image")}`), { code: "SYSTEM_EADDRINUSE" });
    assert.equal(readFileSync(path("image"), "utf8"), "somebody's disk");
  });

  it("removes its path when it closes, and only once", async () => {
    const listener = await listen(`unix:${path("socket")}`);
    listener.close();
    assert.equal(existsSync(path("socket")), false);
    const next = await listen(`unix:${path("socket")}`);
    listener.close();
    await assertAnswers(next);
  });
});
