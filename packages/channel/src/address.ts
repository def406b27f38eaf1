/**
 * Addresses, written as QEMU writes them: `tcp:HOST:PORT`, `unix:PATH`.
 *
 * A host may be a name, an IPv4 address, an IPv6 address in brackets, or empty
 * (also `0`): every interface when listening. Names are resolved when they are
 * used, not when they are parsed. Unix paths that begin with `@` are abstract.
 */
import { lookup } from "node:dns/promises";
import { isIP } from "node:net";
import type { SocketAddress } from "@multifd/native";
import { ConfigError, SystemError } from "@multifd/protocol";

export type Address =
  | { readonly kind: "tcp"; readonly host: string; readonly port: number }
  | { readonly kind: "unix"; readonly path: string };

/** Longest path that fits `struct sockaddr_un` with its NUL. Source: unix(7). */
const UNIX_PATH_BYTES_MAX = 107;

/** @throws {ConfigError} ADDRESS, naming what was given and the forms that are known. */
export function parseAddress(text: string): Address {
  const unix = /^unix:(.+)$/s.exec(text);
  if (unix) {
    const path = unix[1]!;
    const bytes = Buffer.byteLength(path);
    if (bytes > UNIX_PATH_BYTES_MAX) {
      throw new ConfigError(
        "ADDRESS",
        `address "${text}": the path has ${bytes} bytes, a unix socket takes at most ${UNIX_PATH_BYTES_MAX}; use a shorter one`,
      );
    }
    return { kind: "unix", path };
  }
  const tcp = /^tcp:(?:\[([^\]]+)\]|([^:[\]]*)):(\d{1,5})$/.exec(text);
  const port = tcp ? Number(tcp[3]) : Number.NaN;
  if (tcp && port <= 65535) {
    const host = tcp[1] ?? tcp[2] ?? "";
    return { kind: "tcp", host: host === "0" ? "" : host, port };
  }
  throw new ConfigError(
    "ADDRESS",
    `address "${text}" is of no known form; write tcp:HOST:PORT, tcp:[IPV6]:PORT or unix:PATH`,
  );
}

export function formatAddress(address: Address): string {
  if (address.kind === "unix") return `unix:${address.path}`;
  return `tcp:${address.host.includes(":") ? `[${address.host}]` : address.host}:${address.port}`;
}

/**
 * Turns an address into what a socket takes.
 *
 * @param purpose  An empty host means every interface to a listener and this machine to a connector.
 * @throws {SystemError} ADDRESS_LOOKUP, when the name cannot be resolved.
 */
export async function resolveAddress(address: Address, purpose: "listen" | "connect"): Promise<SocketAddress> {
  if (address.kind === "unix") return { family: 1, path: address.path };
  const { port } = address;
  const host = address.host === "" ? (purpose === "listen" ? "0.0.0.0" : "127.0.0.1") : address.host;
  const version = isIP(host);
  if (version !== 0) return { family: version === 6 ? 6 : 4, host, port };
  try {
    const found = await lookup(host);
    return { family: found.family === 6 ? 6 : 4, host: found.address, port };
  } catch (cause) {
    throw new SystemError("ADDRESS_LOOKUP", `${formatAddress(address)}: the host name "${host}" has no address here`, {
      cause,
    });
  }
}
