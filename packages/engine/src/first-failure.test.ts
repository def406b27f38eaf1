import assert from "node:assert/strict";
import { FirstFailure } from "./first-failure.js";

describe("first failure", () => {
  it("keeps the first error, and calls for help once", () => {
    let calls = 0;
    const failure = new FirstFailure(() => calls++);
    failure.check();
    const first = new Error("first");
    failure.fail(first);
    failure.fail(new Error("its echo"));
    assert.throws(() => failure.check(), first);
    assert.deepEqual([calls, failure.failed], [1, true]);
  });

  it("ends every wait with the failure, though what was waited for never comes", async () => {
    const failure = new FirstFailure(() => {});
    const waits = [1, 2].map(() => failure.race(new Promise(() => {})));
    const error = new Error("the link broke");
    failure.fail(error);
    for (const wait of waits) await assert.rejects(wait, error);
    await assert.rejects(failure.race(Promise.resolve(1)), error);
  });

  it("hands on what it waited for, failures of its own included", async () => {
    const failure = new FirstFailure(() => {});
    assert.equal(await failure.race(Promise.resolve(7)), 7);
    await assert.rejects(failure.race(Promise.reject(new Error("own"))), /own/);
    assert.equal(failure.failed, false);
  });

  it("fails with CANCELLED when the signal is aborted, before or after it began to watch", () => {
    for (const when of ["before", "after"]) {
      const failure = new FirstFailure(() => {});
      const controller = new AbortController();
      if (when === "before") controller.abort();
      failure.watch(controller.signal, () => false);
      controller.abort();
      assert.throws(() => failure.check(), { name: "ChannelError", code: "CANCELLED" });
    }
  });

  it("is not cancelled past the point of no return", () => {
    const failure = new FirstFailure(() => {});
    const controller = new AbortController();
    failure.watch(controller.signal, () => true);
    controller.abort();
    failure.check();
    assert.equal(failure.failed, false);
  });
});
