import assert from "node:assert/strict";
import {
  COMMAND,
  type CommandName,
  commandName,
  encodeConnectionRole,
  encodeRequest,
  encodeResponse,
  migrationRequest,
  takeResponse,
} from "./message.js";

const hex = (bytes: Uint8Array) => Buffer.from(bytes).toString("hex");
const wire = (text: string) => Uint8Array.from(Buffer.from(text.replaceAll(" ", ""), "hex"));

/** The golden vectors of the protocol. */
const requests: readonly (readonly [command: CommandName, payloadBytes: number, version: number, bytes: string])[] = [
  ["start", 0, 0, "0100 000000000000 0000000000000000"],
  ["start", 0, 1, "0100 010000000000 0000000000000000"],
  ["config", 5, 0, "0200 000000000000 0500000000000000"],
  ["memory", 32, 0, "0400 000000000000 2000000000000000"],
  ["memoryFd", 4, 0, "0700 000000000000 0400000000000000"],
  ["state", 0x1_0000_0001, 0, "0300 000000000000 0100000001000000"],
  ["complete", 0, 0, "0500 000000000000 0000000000000000"],
  ["abandon", 0, 0, "0600 000000000000 0000000000000000"],
  ["completePaused", 0, 0, "0800 000000000000 0000000000000000"],
  ["pageFault", 16, 0, "0900 000000000000 1000000000000000"],
];

describe("Cloud Hypervisor request", () => {
  for (const [command, payloadBytes, version, bytes] of requests) {
    it(`of ${command}, version ${version}, is ${bytes}`, () => {
      assert.equal(hex(encodeRequest(command, payloadBytes, version)), bytes.replaceAll(" ", ""));
      const decoded = migrationRequest.decode(wire(bytes));
      assert.deepEqual(decoded, { command: COMMAND[command], version, payloadBytes });
      assert.equal(commandName(decoded.command), command);
    });
  }

  it("bears padding that the seed's era never looked at", () => {
    const { command, payloadBytes } = migrationRequest.decode(wire("0200 0000 deadbeef 0700000000000000"));
    assert.deepEqual([command, payloadBytes], [COMMAND.config, 7]);
  });

  it("is not named where no release knows its number", () => assert.equal(commandName(10), null));

  it("is refused when it announces more than a number can count", () => {
    assert.throws(() => migrationRequest.decode(wire("0300 000000000000 0000000000000080")), {
      code: "WIRE_NUMBER_TOO_LARGE",
    });
  });
});

describe("Cloud Hypervisor response", () => {
  it("is 0100… for Ok and 0200… for Error", () => {
    assert.equal(hex(encodeResponse("ok")), `0100${"0".repeat(28)}`);
    assert.equal(hex(encodeResponse("error")), `0200${"0".repeat(28)}`);
    assert.equal(hex(encodeResponse("ok", 4096)), "01000000000000000010000000000000");
  });

  it("is a refusal unless it is Ok, whatever its status is", () => {
    for (const status of ["0000", "0200", "0300", "ffff"]) {
      assert.throws(() => takeResponse(wire(`${status}${"0".repeat(28)}`), false), { code: "PEER_REFUSED" });
    }
  });

  it("announces bytes to a page fault only", () => {
    assert.equal(takeResponse(encodeResponse("ok", 4096), true), 4096);
    assert.throws(() => takeResponse(encodeResponse("ok", 4096), false), { code: "RESPONSE_LENGTH" });
  });

  it("has padding that nobody looks at", () =>
    assert.equal(takeResponse(wire(`0100 ffffffffffff ${"0".repeat(16)}`), false), 0));
});

describe("role of an additional connection", () => {
  it("is 0100 for memory and 0200 for faults", () => {
    assert.deepEqual([hex(encodeConnectionRole("memory")), hex(encodeConnectionRole("fault"))], ["0100", "0200"]);
  });
});
