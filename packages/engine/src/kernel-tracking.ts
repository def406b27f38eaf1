/**
 * Kernel tracking: whether this kernel lets us see what another process writes, and what to do where not.
 *
 * Three features have to be there; each is missing for reasons of its own.
 */
import { probeTracking, type TrackingProbe } from "@multifd/native";
import { SystemError } from "@multifd/protocol";

export type MissingTracking = Extract<TrackingProbe, { ok: false }>;

/** One line: the feature, the kernel's own word, the remedy. */
export function trackingRemedy({ missing, errno }: MissingTracking): string {
  switch (missing) {
    case "userfaultfd":
      return `userfaultfd: ${errno}; run as root, or set vm.unprivileged_userfaultfd=1, or allow it in the container's seccomp profile`;
    case "write-protect-async":
      return `userfaultfd write-protect-async: ${errno}; it came with Linux 6.7 (CONFIG_PTE_MARKER_UFFD_WP)`;
    case "PAGEMAP_SCAN":
      return `PAGEMAP_SCAN: ${errno}; it came with Linux 6.7`;
  }
}

/** @throws {SystemError} TRACKING_MISSING, naming the kernel feature. */
export function requireTracking(): void {
  const kernel = probeTracking();
  if (kernel.ok) return;
  throw new SystemError("TRACKING_MISSING", `this kernel cannot track a guest's writes: ${trackingRemedy(kernel)}`);
}
