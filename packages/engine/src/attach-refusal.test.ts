import assert from "node:assert/strict";
import type { AttachStep } from "@multifd/native";
import { attachRefusal } from "./attach-refusal.js";

describe("refusal to attach", () => {
  const cases: readonly (readonly [step: AttachStep, errno: string, code: string, says: RegExp])[] = [
    ["process", "ESRCH", "PROCESS_GONE", /does not run/],
    ["ended", "ESRCH", "PROCESS_GONE", /does not run/],
    ["seize", "EPERM", "PTRACE_DENIED", /CAP_SYS_PTRACE.*setcap.*LD_PRELOAD/],
    [
      "copy",
      "EPERM",
      "PTRACE_DENIED",
      /CAP_SYS_PTRACE.*setcap[^,]*; the preload library helps only where MULTIFD_TRACK names/,
    ],
    ["seccomp", "EPERM", "PROCESS_FILTERED", /-sandbox on.*LD_PRELOAD/],
    ["architecture", "ENOSYS", "ATTACH_UNSUPPORTED", /x86-64 only.*LD_PRELOAD/],
    ["not-64-bit", "ENOEXEC", "ATTACH_UNSUPPORTED", /64-bit/],
    ["room", "ENOMEM", "ATTACH_UNSUPPORTED", /executable memory/],
    ["timeout", "ETIMEDOUT", "ATTACH_TIMEOUT", /main thread/],
    ["userfaultfd", "ENOSYS", "TRACKING_MISSING", /userfaultfd: ENOSYS.*6\.7/],
    ["interrupt", "EIO", "ATTACH_FAILED", /"interrupt" failed with EIO/],
  ];
  for (const [step, errno, code, says] of cases) {
    it(`tells what to do about ${errno} at "${step}"`, () => {
      const refusal = attachRefusal(process.pid, { ok: false, step, errno });
      assert.equal(refusal.code, code);
      assert.match(refusal.message, says);
      assert.match(refusal.message, new RegExp(`process ${process.pid}\\b`));
    });
  }
});
