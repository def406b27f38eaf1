import assert from "node:assert/strict";
import { COMMAND, type CommandName } from "./message.js";
import { nextReceiverState, RECEIVER_STEPS, type ReceiverState } from "./receiver-states.js";

const legal: readonly (readonly [state: ReceiverState, command: CommandName, next: ReceiverState])[] = [
  ["established", "start", "started"],
  ["started", "memoryFd", "fds-received"],
  ["started", "config", "configured"],
  ["fds-received", "memoryFd", "fds-received"],
  ["fds-received", "config", "configured"],
  ["configured", "memory", "configured"],
  ["configured", "state", "state-received"],
  ["state-received", "complete", "completed"],
  ["state-received", "completePaused", "completed"],
];

describe("states of a receiver", () => {
  for (const state of Object.keys(RECEIVER_STEPS) as ReceiverState[]) {
    for (const command of Object.keys(COMMAND) as CommandName[]) {
      const row = legal.find(([from, what]) => from === state && what === command);
      if (command === "abandon") {
        it(`${state}: abandon ends it`, () => assert.equal(nextReceiverState(state, command), "aborted"));
      } else if (row !== undefined) {
        it(`${state}: ${command} leads to ${row[2]}`, () => assert.equal(nextReceiverState(state, command), row[2]));
      } else {
        it(`${state}: ${command} is refused`, () =>
          assert.throws(() => nextReceiverState(state, command), { code: "COMMAND_OUT_OF_ORDER" }));
      }
    }
  }

  it("take descriptors behind Config where that is allowed", () => {
    assert.equal(nextReceiverState("configured", "memoryFd", true), "configured");
  });
});
