import assert from "node:assert/strict";
import { fstatSync, readdirSync, readlinkSync } from "node:fs";
import { receiveDescriptors, sendDescriptors } from "./descriptors.js";
import { createMemfd } from "./mapping.js";
import { closeDescriptor, socketPair } from "./sockets.js";

describe("descriptor passing", () => {
  let ours: number;
  let theirs: number;
  const out = new Uint8Array(16);
  beforeEach(() => {
    [ours, theirs] = socketPair();
  });
  afterEach(() => {
    closeDescriptor(ours);
    closeDescriptor(theirs);
  });

  it("hands over the same open files, in order, with the message", () => {
    const files = [createMemfd("a", 4096), createMemfd("b", 8192)];
    sendDescriptors(ours, Uint8Array.of(1, 2, 3), files);
    const message = receiveDescriptors(theirs, out, 64);
    assert.deepEqual([...out.subarray(0, message.bytes)], [1, 2, 3]);
    assert.deepEqual(
      message.descriptors.map((fd) => fstatSync(fd).ino),
      files.map((fd) => fstatSync(fd).ino),
    );
    for (const fd of [...files, ...message.descriptors]) closeDescriptor(fd);
  });

  it("closes descriptors that nobody asked for", () => {
    const file = createMemfd("unasked", 4096);
    sendDescriptors(ours, Uint8Array.of(1), [file, file, file]);
    const { descriptors } = receiveDescriptors(theirs, out, 1);
    assert.equal(descriptors.length, 1);
    assert.deepEqual(openDescriptorsOf("unasked"), [file, ...descriptors]);
    for (const fd of [file, ...descriptors]) closeDescriptor(fd);
  });

  it("carries a message without descriptors", () => {
    sendDescriptors(ours, Uint8Array.of(9), []);
    assert.deepEqual(receiveDescriptors(theirs, out, 8), { bytes: 1, descriptors: [] });
  });

  it("refuses more than 64, and an empty message", () => {
    assert.throws(() => sendDescriptors(ours, Uint8Array.of(1), new Array(65).fill(ours)), { name: "AssertionError" });
    assert.throws(() => sendDescriptors(ours, new Uint8Array(0), [ours]), { name: "AssertionError" });
    assert.throws(() => receiveDescriptors(theirs, out, 65), { name: "AssertionError" });
  });

  it("refuses a descriptor that is not open", () => {
    assert.throws(() => sendDescriptors(ours, Uint8Array.of(1), [99_999]), { code: "SYSTEM_EBADF" });
  });
});

/** This process's descriptors of the memfd called `name`, lowest first. Other threads open and close files meanwhile. */
function openDescriptorsOf(name: string): number[] {
  return readdirSync("/proc/self/fd")
    .filter((fd) => linkOf(fd).startsWith(`/memfd:${name} `))
    .map(Number)
    .sort((a, b) => a - b);
}

/** What descriptor `fd` is of; nothing where it has been closed since it was listed. */
function linkOf(fd: string): string {
  try {
    return readlinkSync(`/proc/self/fd/${fd}`);
  } catch {
    return "";
  }
}
