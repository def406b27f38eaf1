/**
 * Tracking remedy: what to do where the kernel cannot track another process's writes.
 *
 * Three features have to be there; each is missing for reasons of its own.
 */
import type { probeTracking } from "@multifd/native";

export type MissingTracking = Extract<ReturnType<typeof probeTracking>, { ok: false }>;

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
