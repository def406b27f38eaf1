/**
 * Virtio text: a virtio device's summary for people, one line a thing.
 *
 * Queues that differ in nothing but their number are told once; long bytes by
 * their beginning, for `--json` has all of them.
 */
import type { QueueSummary, summarizeVirtio } from "./virtio-summary.js";

const INDENT = "  ";
const HEAD = "decoded as";
const BYTES_TEXT_MAX = 64;

/** Lines of a device, the first of them their head. */
export function virtioLines(summary: NonNullable<ReturnType<typeof summarizeVirtio>>): string[] {
  if (!("type" in summary)) return [`not decoded as virtio: ${summary.refusal.message} [${summary.refusal.code}]`];
  const { status, features, featureNames, backendState, inflight, refusal, msixVectors, configuration } = summary;
  const flags = (["started", "broken", "disabled"] as const).filter((flag) => summary[flag]);
  const rows: [string, string][] = [
    ["status", [...status, ...flags].join(", ") || "reset"],
    ["features", `${featureNames.join(", ") || "none"} (0x${BigInt(features as string | number).toString(16)})`],
    ["MSI-X", msixVectors === null ? "none" : `${msixVectors} vectors`],
    ["configuration", bytesText(configuration)],
    ...queueRows(summary.queues),
    ...Object.entries(summary.own).map(([name, value]): [string, string] => [name, valueText(value)]),
  ];
  if (summary.endianness !== null) rows.push(["endianness", summary.endianness]);
  if (backendState !== null) rows.push(["back-end state", bytesText(backendState)]);
  if (inflight !== null) rows.push(["inflight", valueText(inflight)]);
  if (refusal !== null) rows.push(["a destination would refuse it", `${refusal.message} [${refusal.code}]`]);
  const width = rows.reduce((widest, [label]) => Math.max(widest, label.length), 0);
  return [`${HEAD} ${summary.type}`, ...rows.map(([label, text]) => `${INDENT}${label.padEnd(width)}  ${text}`)];
}

function queueRows(queues: readonly QueueSummary[]): [string, string][] {
  const rows: [string, string][] = [];
  for (let first = 0, next = 0; first < queues.length; first = next) {
    const text = queueText(queues[first]!);
    while (next < queues.length && queueText(queues[next]!) === text) next++;
    rows.push([next - first === 1 ? `queue ${first}` : `queues ${first} to ${next - 1}`, text]);
  }
  return rows;
}

function queueText({ size, vector, lastAvailableIndex, descriptors, available, used, packed }: QueueSummary): string {
  const told = [`${size} descriptors`];
  if (descriptors === null) return `${told}, not set up`;
  told.push(`at ${address(descriptors)}, available ${address(available)}, used ${address(used)}`);
  told.push(packed === null ? `next available ${lastAvailableIndex}` : valueText(packed));
  told.push(vector === null ? "no vector" : `vector ${vector}`);
  return told.join(", ");
}

function address(value: QueueSummary["descriptors"]): string {
  return `0x${BigInt(value as string | number).toString(16)}`;
}

function valueText(value: unknown): string {
  if (value === null) return "none";
  if (Array.isArray(value)) return value.length === 0 ? "none" : value.map(valueText).join(", ");
  if (typeof value === "object")
    return Object.entries(value)
      .map(([key, member]) => `${key} ${valueText(member)}`)
      .join(", ");
  return typeof value === "string" ? bytesText(value) : String(value);
}

/** The only texts among the values are bytes, but for numbers beyond 2^53. */
function bytesText(text: string): string {
  if (text === "") return "empty";
  const beginning = text.length > BYTES_TEXT_MAX ? `${text.slice(0, BYTES_TEXT_MAX)} …` : text;
  return text.length > BYTES_TEXT_MAX ? `${text.length / 2} bytes: ${beginning}` : beginning;
}
