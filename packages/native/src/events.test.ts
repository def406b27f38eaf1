import assert from "node:assert/strict";
import { closeSync, readFileSync, writeSync } from "node:fs";
import { createEvent, createPipe, signalEvent, takeEvent } from "./events.js";
import { closeDescriptor } from "./sockets.js";

describe("event descriptors and pipes", () => {
  it("tell how often they were signalled, once", () => {
    const event = createEvent();
    assert.equal(takeEvent(event), 0);
    signalEvent(event);
    signalEvent(event);
    assert.deepEqual([takeEvent(event), takeEvent(event)], [2, 0]);
    closeDescriptor(event);
  });

  it("carry bytes from the writing end to the reading one, and their end", () => {
    const { read, write } = createPipe();
    writeSync(write, "state");
    closeDescriptor(write);
    assert.equal(readFileSync(read, "utf8"), "state");
    closeSync(read);
  });

  it("are refused by name when they are not open", () => {
    assert.throws(() => signalEvent(99_999), { code: "SYSTEM_EBADF" });
  });
});
