/**
 * Migration errors: one class per reaction.
 *
 * A class says what the caller does next; `code` is for programs and is never
 * reworded; the message is for people and says where, what came, what was due
 * and what to do. Classes do not survive a thread boundary: a worker answers
 * with `describeError` and the coordinator rebuilds with `reviveError`.
 */

/** A failure we raise on purpose; the source VM keeps running. `code` is for programs and never reworded. */
export abstract class MigrationError extends Error {
  readonly code: string;
  constructor(code: string, message: string, options?: ErrorOptions) {
    super(message, options);
    this.code = code;
    this.name = new.target.name;
  }
}

/** Nothing has started: the operator corrects the input. */
export class ConfigError extends MigrationError {}
/** The peer broke its contract: abandon, and never resume this stream. */
export class ProtocolError extends MigrationError {}
/** The link broke: abandon; the migration as a whole may be tried again. */
export class ChannelError extends MigrationError {}
/** This machine refused (disk full, no such file, a kernel without the feature): abandon; mend the machine. */
export class SystemError extends MigrationError {}

/** A migration error as it crosses a thread boundary. */
export type ErrorDescription = {
  readonly kind: "config" | "protocol" | "channel" | "system";
  readonly code: string;
  readonly message: string;
};

/** Turns a migration error into plain data; null for anything else, which is a defect and must keep its stack. */
export function describeError(error: unknown): ErrorDescription | null {
  if (!(error instanceof MigrationError)) return null;
  const kind =
    error instanceof ConfigError
      ? "config"
      : error instanceof ProtocolError
        ? "protocol"
        : error instanceof ChannelError
          ? "channel"
          : "system";
  return { kind, code: error.code, message: error.message };
}

/** The inverse of `describeError`. */
export function reviveError(description: ErrorDescription): MigrationError {
  const { kind, code, message } = description;
  switch (kind) {
    case "config":
      return new ConfigError(code, message);
    case "protocol":
      return new ProtocolError(code, message);
    case "channel":
      return new ChannelError(code, message);
    case "system":
      return new SystemError(code, message);
  }
}

/** The same error, told with its place in front: `channel 3, packet 1812: …`. Anything but a migration error passes unchanged. */
export function placeError(error: unknown, place: string): unknown {
  if (!(error instanceof MigrationError)) return error;
  const Class = error.constructor as new (code: string, message: string, options?: ErrorOptions) => MigrationError;
  return new Class(error.code, `${place}: ${error.message}`, { cause: error });
}
