/**
 * QMP answers: what QEMU returned, as the shapes we count on.
 *
 * The other end of the socket may be anything that speaks JSON; what does not
 * have its field is named with the command that it answers.
 */
import { ProtocolError } from "@multifd/protocol";

export type QmpObject = Readonly<Record<string, unknown>>;

/** @throws {ProtocolError} QMP_MALFORMED, as all functions here. */
export function toObject(answer: unknown, command: string): QmpObject {
  if (answer !== null && typeof answer === "object" && !Array.isArray(answer)) return answer as QmpObject;
  throw malformed(command, "an object", answer);
}

export function toList(answer: unknown, command: string): readonly QmpObject[] {
  if (Array.isArray(answer)) return answer.map((entry) => toObject(entry, command));
  throw malformed(command, "a list", answer);
}

export function toText(answer: unknown, command: string): string {
  if (typeof answer === "string") return answer;
  throw malformed(command, "a text", answer);
}

export function toCount(answer: unknown, command: string): number {
  if (typeof answer === "number" && Number.isSafeInteger(answer) && answer >= 0) return answer;
  throw malformed(command, "a count", answer);
}

/** As `toCount`; 0 where QEMU leaves the field out. */
export function toCountOrZero(answer: unknown, command: string): number {
  return answer === undefined ? 0 : toCount(answer, command);
}

function malformed(command: string, due: string, came: unknown): ProtocolError {
  const text = (JSON.stringify(came) ?? "nothing").slice(0, 120);
  return new ProtocolError("QMP_MALFORMED", `QMP: ${command} answers ${text}, ${due} was due; is this a QEMU?`);
}
