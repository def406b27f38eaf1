/**
 * Field text: a field's content in one line, for people.
 *
 * Unsigned numbers are told in hexadecimal too, equal neighbours in an array once,
 * and long buffers by their beginning: `--json` has all of it.
 */
import type { FieldContent, Scalar } from "@multifd/protocol";

/** Runs of equal values told of one array. */
const RUNS_MAX = 8;
const BYTES_MAX = 32;

/** One line for a content without states; null for one that has its own lines. */
export function contentText(type: string, content: FieldContent): string | null {
  switch (content.kind) {
    case "scalar":
      return scalarText(type, content.value);
    case "scalars":
      return `[${content.values.length}] ${runsText(type, content.values)}`;
    case "bytes":
      return content.note === null ? bytesText(content.bytes) : `${bytesText(content.bytes)} (${content.note})`;
    default:
      return null;
  }
}

/** `1500 (0x5dc)`: small and signed numbers in decimal alone. */
export function scalarText(type: string, value: Scalar): string {
  if (value === null) return "none";
  if (type === "timer") return value === -1 ? "not set" : `${value} ns`;
  if (!isUnsigned(type, value)) return typeof value === "string" ? JSON.stringify(value) : String(value);
  return value < 10 ? String(value) : `${value} (0x${value.toString(16)})`;
}

function isUnsigned(type: string, value: Scalar): value is number | bigint {
  return (
    (typeof value === "number" || typeof value === "bigint") && (type.startsWith("uint") || type === "int64 equal")
  );
}

function runsText(type: string, values: readonly Scalar[]): string {
  const told: string[] = [];
  let at = 0;
  for (; at < values.length && told.length < RUNS_MAX; ) {
    const start = at;
    while (at < values.length && values[at] === values[start]) at++;
    const value = values[start]!;
    const text = isUnsigned(type, value) && value >= 10 ? `0x${value.toString(16)}` : scalarText(type, value);
    told.push(at - start === 1 ? text : `${text} ×${at - start}`);
  }
  return at < values.length ? `${told.join(", ")}, … ${values.length - at} more` : told.join(", ");
}

/** `"running"` where it is text behind which only zeros follow, hexadecimal otherwise. */
export function bytesText(bytes: Uint8Array): string {
  const size = `${bytes.length} bytes`;
  if (bytes.length === 0) return "empty";
  if (bytes.every((byte) => byte === 0)) return `${size}, all zero`;
  const text = zeroEndedText(bytes);
  if (text !== null) return `${JSON.stringify(text)} (${size})`;
  const hex = Buffer.from(bytes.subarray(0, BYTES_MAX)).toString("hex");
  const grouped = hex.replace(/.{8}(?=.)/g, "$& ");
  return bytes.length > BYTES_MAX ? `${size}: ${grouped} …` : grouped;
}

function zeroEndedText(bytes: Uint8Array): string | null {
  const zeroAt = bytes.indexOf(0);
  const length = zeroAt < 0 ? bytes.length : zeroAt;
  if (length < 3 || bytes.subarray(length).some((byte) => byte !== 0)) return null;
  const text = Buffer.from(bytes.subarray(0, length)).toString("latin1");
  return /^[\x20-\x7e]+$/.test(text) ? text : null;
}
