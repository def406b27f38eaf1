/**
 * TLS credentials: read from a directory that QEMU's `tls-creds-x509` and `tls-creds-psk` could use as well.
 *
 * Everything is read and tried once before a migration starts, so that a wrong
 * file is told by name and at once, not by a handshake that fails.
 * Source: QEMU 10.2, docs/system/tls.rst; crypto/tlscredsx509.c, crypto/tlscredspsk.c.
 */
import { existsSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { createSecureContext } from "node:tls";
import { ConfigError } from "@multifd/protocol";
import { contextOptions, type TlsCredentials } from "./tls-terms.js";

export type TlsKind = TlsCredentials["kind"];

/** A file of credentials larger than this is some other file. */
const FILE_BYTES_MAX = 2 ** 20;
/** OpenSSL's PSK_MAX_PSK_LEN. */
const KEY_BYTES_MAX = 256;
const NAMES = {
  authority: "ca-cert.pem",
  revoked: "ca-crl.pem",
  keys: "keys.psk",
  listen: { certificate: "server-cert.pem", key: "server-key.pem" },
  connect: { certificate: "client-cert.pem", key: "client-key.pem" },
} as const;

/**
 * Reads the credentials of one side.
 *
 * @param kind  Undefined takes what the directory holds.
 * @throws {ConfigError} TLS_CREDENTIALS, naming the file and what is wrong with it.
 */
export function readTlsCredentials(directory: string, role: "listen" | "connect", kind?: TlsKind): TlsCredentials {
  const credentials =
    (kind ?? detectKind(directory)) === "psk" ? readKeys(directory) : readCertificates(directory, role);
  try {
    createSecureContext(contextOptions(credentials));
  } catch (cause) {
    throw wrong(`${directory}: OpenSSL does not take these files: ${(cause as Error).message}`, cause);
  }
  return credentials;
}

function detectKind(directory: string): TlsKind {
  const found = { x509: has(directory, NAMES.authority), psk: has(directory, NAMES.keys) };
  if (found.x509 !== found.psk) return found.x509 ? "x509" : "psk";
  const both = `holds both ${NAMES.authority} (x509) and ${NAMES.keys} (psk); say which kind is meant`;
  const neither = `holds neither ${NAMES.authority} (x509) nor ${NAMES.keys} (psk); name the folder of credentials`;
  throw wrong(`${directory}: ${found.x509 ? both : neither}`);
}

function readCertificates(directory: string, role: "listen" | "connect"): TlsCredentials {
  const { certificate, key } = NAMES[role];
  const bare = role === "connect" && !has(directory, certificate) && !has(directory, key);
  return {
    kind: "x509",
    directory,
    authority: readPem(directory, NAMES.authority),
    revoked: has(directory, NAMES.revoked) ? readPem(directory, NAMES.revoked) : null,
    identity: bare ? null : { certificate: readPem(directory, certificate), key: readPrivateKey(directory, key) },
  };
}

function readPem(directory: string, name: string): string {
  const text = readText(directory, name);
  if (text.includes("-----BEGIN ")) return text;
  throw wrong(`${join(directory, name)}: is no PEM file; "-----BEGIN …" was due`);
}

function readPrivateKey(directory: string, name: string): string {
  const text = readPem(directory, name);
  if (!/ENCRYPTED/.test(text)) return text;
  throw wrong(`${join(directory, name)}: is locked with a passphrase; only keys without one can be used`);
}

function readKeys(directory: string): TlsCredentials {
  const keys = new Map<string, Uint8Array>();
  for (const [index, line] of readText(directory, NAMES.keys).split("\n").entries()) {
    if (line.trim() === "" || line.startsWith("#")) continue;
    const [, user, hex] = /^([^:]+):([0-9a-fA-F]+)\s*$/.exec(line) ?? [];
    if (user === undefined || hex === undefined || hex.length % 2 !== 0 || hex.length > 2 * KEY_BYTES_MAX) {
      throw wrong(
        `${join(directory, NAMES.keys)}, line ${index + 1}: USER:HEXKEY was due, with a key of at most ${KEY_BYTES_MAX} bytes`,
      );
    }
    keys.set(user, Uint8Array.from(Buffer.from(hex, "hex")));
  }
  if (keys.size > 0) return { kind: "psk", directory, keys };
  throw wrong(`${join(directory, NAMES.keys)}: holds no key; write a line USER:HEXKEY`);
}

function readText(directory: string, name: string): string {
  const path = join(directory, name);
  try {
    const { size } = statSync(path);
    if (size <= FILE_BYTES_MAX) return readFileSync(path, "utf8");
  } catch (cause) {
    throw wrong(`${path}: cannot be read: ${(cause as Error).message}`, cause);
  }
  throw wrong(`${path}: is larger than ${FILE_BYTES_MAX} bytes; this is no file of credentials`);
}

function has(directory: string, name: string): boolean {
  return existsSync(join(directory, name));
}

function wrong(message: string, cause?: unknown): ConfigError {
  return new ConfigError("TLS_CREDENTIALS", `TLS credentials: ${message}`, { cause });
}
