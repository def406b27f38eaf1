import assert from "node:assert/strict";
import type { ChannelError } from "@multifd/protocol";
import { StallWatch } from "./stall-watch.js";

describe("stall watch", () => {
  it("fails when nothing moves, and says what was waited for", async () => {
    let watch: StallWatch | undefined;
    const error = await new Promise<ChannelError>((fail) => {
      watch = new StallWatch(
        40,
        () => 7,
        () => "waiting for the SYNC of channel 3",
        fail,
      );
    });
    watch?.stop();
    assert.equal(error.code, "STALLED");
    assert.match(error.message, /nothing has moved for 40 ms while waiting for the SYNC of channel 3/);
  });

  it("takes any change for a sign of life, and fails only when the changes end", async () => {
    let looks = 0;
    let watch: StallWatch | undefined;
    await new Promise<ChannelError>((fail) => {
      watch = new StallWatch(
        40,
        () => Math.min(++looks, 20),
        () => "sending",
        fail,
      );
    });
    watch?.stop();
    assert.ok(looks > 20, "it looked on while something moved");
  });
});
