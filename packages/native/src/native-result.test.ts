import assert from "node:assert/strict";
import { constants } from "node:os";
import { limitScan, nativeFeatures, threadCpuMs } from "./features.js";
import { checked, isErrno, nativeError } from "./native-result.js";

describe("native results", () => {
  it("pass when they are no failure", () => {
    assert.equal(checked(0, "sending"), 0);
    assert.equal(checked(2 ** 40, "sending"), 2 ** 40);
  });

  const codes: readonly (readonly [number, string, string])[] = [
    [-5003, "ChannelError", "CHANNEL_CUT"],
    [-5008, "ChannelError", "CHANNEL_TIMEOUT"],
    [-5004, "ProtocolError", "PAYLOAD_CORRUPT"],
    [-5005, "ProtocolError", "PAYLOAD_TOO_LONG"],
    [-5006, "ProtocolError", "PAYLOAD_TOO_SHORT"],
    [-5007, "ProtocolError", "PAYLOAD_STREAM_ENDED"],
    [-5009, "ConfigError", "CODEC_NOT_BUILT"],
    [-constants.errno.EPIPE, "ChannelError", "CHANNEL_BROKEN"],
    [-constants.errno.ECONNRESET, "ChannelError", "CHANNEL_BROKEN"],
    [-constants.errno.ENOSPC, "SystemError", "SYSTEM_ENOSPC"],
    [-5001, "AssertionError", "ERR_ASSERTION"],
    [-5002, "AssertionError", "ERR_ASSERTION"],
    [-6000, "AssertionError", "ERR_ASSERTION"],
  ];
  for (const [result, name, code] of codes) {
    it(`read ${result} as ${name} ${code}, whose message starts with what failed`, () => {
      const error = nativeError(result, "sending a packet");
      assert.equal(error.name, name);
      assert.equal((error as { code?: string }).code, code);
      assert.match(error.message, /^sending a packet: /);
    });
  }

  it("are matched by errno only where they are one", () => {
    assert.equal(isErrno(-constants.errno.EAGAIN, "ENXIO", "EAGAIN"), true);
    assert.equal(isErrno(-5001, "EAGAIN"), false);
    assert.equal(isErrno(constants.errno.EAGAIN, "EAGAIN"), false);
  });
});

describe("features", () => {
  it("always have zlib, and show what the scan is limited to", () => {
    assert.equal(nativeFeatures().zlib, true);
    limitScan("scalar");
    assert.deepEqual([nativeFeatures().avx2, nativeFeatures().avx512], [false, false]);
    limitScan("avx2");
    assert.equal(nativeFeatures().avx512, false);
    limitScan("best");
  });

  it("count a thread's CPU time upwards", () => {
    const before = threadCpuMs();
    while (threadCpuMs() === before);
    assert.ok(threadCpuMs() > before);
  });
});
