/**
 * Colours: each variant has one throughout the report, as a class of the page's style.
 */
import type { Role } from "../variants.js";

export function colorOf(variant: string, role: Role): string {
  if (role !== "other") return `c-${role}`;
  if (variant.startsWith("QEMU")) return "c-from-qemu";
  if (variant.startsWith("multifd")) return "c-to-qemu";
  return variant.includes("UFFDIO") ? "c-raw-fresh" : "c-raw";
}
