import assert from "node:assert/strict";
import { type GuestAnswer, parseDescription } from "./guest-description.js";

const block = { name: "guest.ram", bytes: 2 ** 20, address: 2 ** 40, pageBytes: 4096 };
const answer: GuestAnswer = { ok: true, pid: 42, blocks: [block], tracking: true };

describe("guest description", () => {
  it("takes what a guest says of its RAM", () => {
    const { pid, blocks, tracking } = parseDescription(answer, "guest");
    assert.deepEqual([pid, tracking, blocks[0]?.address, blocks[0]?.block.pageCount], [42, true, 2 ** 40, 256]);
  });

  it("keeps the guest's reason for not tracking", () => {
    const described = parseDescription({ ...answer, tracking: false, trackingError: "userfaultfd: EPERM" }, "guest");
    assert.deepEqual([described.tracking, described.trackingError], [false, "userfaultfd: EPERM"]);
  });

  it("refuses every field that does not make sense", () => {
    const wrong: GuestAnswer[] = [
      { ...answer, pid: 0 },
      { ...answer, pid: "42" },
      { ...answer, blocks: [] },
      { ...answer, blocks: "guest.ram" },
      { ...answer, blocks: [null] },
      { ...answer, blocks: [block, block] },
      { ...answer, blocks: [{ ...block, name: "" }] },
      { ...answer, blocks: [{ ...block, name: "x".repeat(256) }] },
      { ...answer, blocks: [{ ...block, bytes: 4097 }] },
      { ...answer, blocks: [{ ...block, bytes: 0 }] },
      { ...answer, blocks: [{ ...block, bytes: 2 ** 60 }] },
      { ...answer, blocks: [{ ...block, pageBytes: 3000 }] },
      { ...answer, blocks: [{ ...block, pageBytes: 2 ** 20 }] },
      { ...answer, blocks: [{ ...block, address: 2 ** 47 - 4096 }] },
      { ...answer, blocks: [{ ...block, address: 4097 }] },
      { ...answer, blocks: [{ ...block, address: -4096 }] },
    ];
    for (const given of wrong) {
      assert.throws(() => parseDescription(given, "guest"), { code: "GUEST_ANSWER" }, JSON.stringify(given));
    }
  });
});
