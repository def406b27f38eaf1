import assert from "node:assert/strict";
import { InvalidArgumentError } from "commander";
import {
  address,
  byteSize,
  compression,
  guestAddress,
  levelComplaint,
  ramFile,
  uuid,
  wholeNumber,
} from "./option-values.js";

describe("option values", () => {
  it("takes whole numbers between the bounds and nothing else", () => {
    const channels = wholeNumber(1, 64);
    assert.deepEqual(["1", "2", "64"].map(channels), [1, 2, 64]);
    for (const text of ["0", "256", "2.5", "-1", "two", "", "1e2", " 3"]) {
      assert.throws(() => channels(text), InvalidArgumentError, text);
    }
  });

  it("keeps sizes within what the option allows", () => {
    const ramBytes = byteSize(2 ** 20, 2 ** 40);
    assert.equal(ramBytes("1G"), 2 ** 30);
    for (const text of ["512K", "2T", "lots"]) assert.throws(() => ramBytes(text), InvalidArgumentError, text);
  });

  it("passes on what is wrong with an address", () => {
    assert.deepEqual(address("tcp:10.0.0.2:4444"), { kind: "tcp", host: "10.0.0.2", port: 4444 });
    assert.throws(() => address("10.0.0.2:4444"), /write tcp:HOST:PORT/);
    assert.throws(() => guestAddress("tcp:10.0.0.2:4444"), /unix:PATH/);
  });

  it("reads UUIDs and methods", () => {
    assert.equal(
      Buffer.from(uuid("01234567-89ab-cdef-0123-456789abcdef")).toString("hex"),
      "0123456789abcdef0123456789abcdef",
    );
    assert.throws(() => uuid("0123"), InvalidArgumentError);
    assert.equal(compression("zstd"), "zstd");
    assert.throws(() => compression("gzip"), InvalidArgumentError);
  });

  it("collects RAM files, each block once; a path may contain an equals sign", () => {
    const one = ramFile("pc.ram=/dev/shm/a=b", undefined);
    const two = ramFile("/objects/mem1=/dev/shm/c", one);
    assert.deepEqual(
      [...two],
      [
        ["pc.ram", "/dev/shm/a=b"],
        ["/objects/mem1", "/dev/shm/c"],
      ],
    );
    assert.throws(() => ramFile("pc.ram=/x", one), /named twice/);
    for (const text of ["pc.ram", "=/x", "pc.ram="]) assert.throws(() => ramFile(text, undefined), /BLOCK=PATH/, text);
  });

  it("knows which levels a method has", () => {
    assert.equal(levelComplaint("zlib", 9), null);
    assert.match(levelComplaint("zlib", 10)!, /zlib has levels up to 9/);
    assert.equal(levelComplaint("zstd", 20), null);
  });
});
