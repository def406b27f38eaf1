/**
 * Native results: the one place where a negative number becomes a typed error.
 *
 * The library answers zero or more, -errno where the system refused, or one of
 * its own codes below -4095 where the input was refused. What a number means
 * for the migration depends on the call: a broken pipe is the link's fault, a
 * full disk this machine's, and an argument that makes no sense is ours.
 *
 * Messages start with what failed; callers that know the channel and packet
 * add the place.
 */
import { AssertionError } from "node:assert";
import { getSystemErrorMap } from "node:util";
import { ChannelError, ConfigError, ProtocolError, SystemError } from "@multifd/protocol";

const refused = {
  outside: -5001,
  argument: -5002,
  cut: -5003,
  corrupt: -5004,
  long: -5005,
  short: -5006,
  ended: -5007,
  timeout: -5008,
  noCodec: -5009,
} as const;

/** The link or the peer is gone: another try, over another link, may do. */
const linkErrors = new Set([
  "EPIPE",
  "ECONNRESET",
  "ECONNABORTED",
  "ECONNREFUSED",
  "ENOTCONN",
  "ESHUTDOWN",
  "ETIMEDOUT",
  "EHOSTUNREACH",
  "EHOSTDOWN",
  "ENETUNREACH",
  "ENETDOWN",
  "ENETRESET",
]);

/** What was being done when the number came back, as a phrase: "connecting to tcp:10.0.0.2:4444". */
type Action = string;

/** The name of a system error number ("ENOSPC") and its text. */
export function errnoName(result: number): { readonly name: string; readonly text: string } {
  const known = getSystemErrorMap().get(result);
  return known === undefined ? { name: `ERRNO_${-result}`, text: "unknown error" } : { name: known[0], text: known[1] };
}

/** True when `result` is -errno of that name. */
export function isErrno(result: number, ...names: readonly string[]): boolean {
  return result < 0 && result > -4096 && names.includes(errnoName(result).name);
}

function refusal(result: number, action: Action): Error {
  switch (result) {
    case refused.cut:
      return new ChannelError("CHANNEL_CUT", `${action}: the stream ended inside what was announced`);
    case refused.timeout:
      return new ChannelError("CHANNEL_TIMEOUT", `${action}: nothing moved within the time allowed`);
    case refused.corrupt:
      return new ProtocolError("PAYLOAD_CORRUPT", `${action}: the compressed payload cannot be decoded`);
    case refused.long:
      return new ProtocolError("PAYLOAD_TOO_LONG", `${action}: the payload holds more than the packet's pages`);
    case refused.short:
      return new ProtocolError("PAYLOAD_TOO_SHORT", `${action}: the payload holds less than the packet's pages`);
    case refused.ended:
      return new ProtocolError(
        "PAYLOAD_STREAM_ENDED",
        `${action}: the compressed stream was finished, but it must stay open for the channel's later packets`,
      );
    case refused.noCodec:
      return new ConfigError(
        "CODEC_NOT_BUILT",
        `${action}: the C library was built without this codec; install its header (libzstd-dev, liblz4-dev), then type "npm run build"`,
      );
    case refused.outside:
      return new AssertionError({ message: `${action}: an address or page lies outside its mapping or file` });
    case refused.argument:
      return new AssertionError({ message: `${action}: an argument makes no sense` });
    default:
      return new AssertionError({ message: `${action}: unknown result ${result} of the C library` });
  }
}

/** The error that a negative result stands for. */
export function nativeError(result: number, action: Action): Error {
  if (result <= -4096) return refusal(result, action);
  const { name, text } = errnoName(result);
  const message = `${action}: ${text} (${name})`;
  return linkErrors.has(name)
    ? new ChannelError("CHANNEL_BROKEN", message)
    : new SystemError(`SYSTEM_${name}`, message);
}

/**
 * Lets a result pass unless it is negative.
 *
 * @throws {ChannelError | ProtocolError | ConfigError | SystemError} As `nativeError` tells.
 */
export function checked(result: number, action: Action): number {
  if (result < 0) throw nativeError(result, action);
  return result;
}
