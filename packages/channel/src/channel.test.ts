import assert from "node:assert/strict";
import { closeDescriptor, receiveBytes, sendBytes, socketPair } from "@multifd/native";
import { formatAddress, parseAddress } from "./address.js";
import { Channel } from "./channel.js";
import { receiveInThread, socketDirectory } from "./fixture.js";
import { Listener } from "./listener.js";

describe("channel", () => {
  const path = socketDirectory();

  it("fails to connect where nobody listens, and names the address once it was tried", async () => {
    const listener = await Listener.listen(parseAddress("tcp:127.0.0.1:0"), 1);
    listener.close();
    for (const address of [listener.address, parseAddress(`unix:${path("nobody")}`)]) {
      await assert.rejects(Channel.connect(address, 1000), (error: Error & { code: string }) => {
        assert.deepEqual([error.name, error.code], ["ChannelError", "CONNECT_FAILED"]);
        assert.ok(error.message.startsWith(`${formatAddress(address)}: `), error.message);
        assert.equal(error.message.match(/listening/g)?.length, 1, error.message);
        return true;
      });
    }
  });

  it("gives up a connect that nobody accepts", async () => {
    const listener = await Listener.listen(parseAddress(`unix:${path("busy")}`), 0);
    const waiting: Channel[] = [];
    await assert.rejects(
      async () => {
        for (;;) waiting.push(await Channel.connect(listener.address, 50));
      },
      { name: "ChannelError", code: "CONNECT_FAILED" },
    );
    for (const channel of waiting) channel.close();
    listener.close();
  });

  it("wakes a receive that blocks in another thread when it is shut down", async () => {
    const [near, far] = socketPair();
    const channel = new Channel(near);
    const thread = await receiveInThread(near, 100);
    sendBytes(far, new Uint8Array(7));
    channel.shutDown();
    assert.ok((await thread.received) <= 7);
    channel.close();
    closeDescriptor(far);
  });

  it("shows its peer the end once it is shut down, bytes in flight first", async () => {
    const [near, far] = socketPair();
    const channel = new Channel(near);
    sendBytes(near, Uint8Array.of(1, 2, 3));
    channel.shutDown();
    assert.equal(receiveBytes(far, new Uint8Array(10)), 3);
    channel.close();
    closeDescriptor(far);
  });

  it("touches its descriptor no more once it is closed or released", () => {
    const [near, far] = socketPair();
    const channel = new Channel(near);
    assert.equal(channel.release(), near);
    channel.shutDown();
    channel.close();
    sendBytes(near, Uint8Array.of(1));
    assert.equal(receiveBytes(far, new Uint8Array(1)), 1);
    const again = new Channel(near);
    again.close();
    again.close();
    closeDescriptor(far);
  });
});
