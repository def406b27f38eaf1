/**
 * TLS flags: credentials from a directory such as QEMU's `tls-creds` objects use, for either side of a migration.
 *
 * A relay has two sides: those of its outgoing one begin with `--to-tls`. Nothing
 * is encrypted unless credentials are named, and a flag without them is a usage error.
 */
import {
  type Address,
  readTlsCredentials,
  type TlsConnectTerms,
  type TlsKind,
  type TlsListenTerms,
} from "@multifd/channel";
import { ConfigError } from "@multifd/protocol";
import { type Command, Option } from "commander";

export type TlsPrefix = "tls" | "to-tls";

/** QEMU's own default for tls-creds-psk. */
const USERNAME = "qemu";

type TlsFlags = {
  readonly creds?: string;
  readonly kind?: TlsKind;
  readonly hostname?: string;
  readonly username?: string;
  readonly verifyPeer?: "on" | "off";
};

const ATTRIBUTES: Readonly<Record<keyof TlsFlags, string>> = {
  creds: "Creds",
  kind: "Kind",
  hostname: "Hostname",
  username: "Username",
  verifyPeer: "VerifyPeer",
};

/** Flags of the side that listens. */
export function addListenTlsFlags(command: Command, prefix: TlsPrefix = "tls"): Command {
  return addCredentials(command, prefix).addOption(
    new Option(`--${prefix}-verify-peer <on|off>`, "whether the source must show a certificate (default: on)").choices([
      "on",
      "off",
    ]),
  );
}

/** Flags of the side that connects. */
export function addConnectTlsFlags(command: Command, prefix: TlsPrefix = "tls"): Command {
  return addCredentials(command, prefix)
    .option(
      `--${prefix}-hostname <name>`,
      "what the destination's certificate must bear (default: the host connected to)",
    )
    .option(`--${prefix}-username <name>`, `whose pre-shared key to use (default: "${USERNAME}")`);
}

function addCredentials(command: Command, prefix: TlsPrefix): Command {
  return command
    .option(
      `--${prefix}-creds <dir>`,
      "encrypt: ca-cert.pem, server- or client-cert.pem and -key.pem, or keys.psk, as QEMU names them",
    )
    .addOption(
      new Option(`--${prefix}-kind <kind>`, "which credentials, where the directory holds both").choices([
        "x509",
        "psk",
      ]),
    );
}

/** Ends with a usage error where a flag means nothing without credentials. */
export function checkTlsFlags(command: Command, prefix: TlsPrefix = "tls"): void {
  const flags = flagsOf(command.opts(), prefix);
  if (flags.creds !== undefined || Object.values(flags).every((value) => value === undefined)) return;
  command.error(`error: --${prefix}-…: name the credentials too: --${prefix}-creds DIR`);
}

/**
 * What a listening side's terms take of the flags: `tls`, or nothing.
 *
 * @throws {ConfigError} TLS_CREDENTIALS.
 */
export function listenTls(flags: object, prefix: TlsPrefix = "tls"): { readonly tls?: TlsListenTerms } {
  const { creds, kind, verifyPeer } = flagsOf(flags, prefix);
  if (creds === undefined) return {};
  const credentials = readTlsCredentials(creds, "listen", kind);
  return { tls: { role: "listen", credentials, verifyPeer: verifyPeer !== "off" } };
}

/**
 * What a connecting side's terms take of the flags: `tls`, or nothing.
 *
 * @param address  Where to connect; its host is what the certificate must bear unless a flag says otherwise.
 * @throws {ConfigError} TLS_CREDENTIALS, TLS_HOSTNAME, TLS_USER.
 */
export function connectTls(
  flags: object,
  address: Address,
  prefix: TlsPrefix = "tls",
): { readonly tls?: TlsConnectTerms } {
  const { creds, kind, hostname = hostOf(address), username = USERNAME } = flagsOf(flags, prefix);
  if (creds === undefined) return {};
  const credentials = readTlsCredentials(creds, "connect", kind);
  if (credentials.kind === "x509" && hostname === "") {
    throw new ConfigError(
      "TLS_HOSTNAME",
      `the address has no host name that the destination's certificate could bear; say which it must: --${prefix}-hostname NAME`,
    );
  }
  if (credentials.kind === "psk" && !credentials.keys.has(username)) {
    throw new ConfigError(
      "TLS_USER",
      `${creds}/keys.psk holds no key for the user "${username}", only for ${[...credentials.keys.keys()].map((user) => `"${user}"`).join(", ")}; choose one with --${prefix}-username`,
    );
  }
  return { tls: { role: "connect", credentials, hostname, username } };
}

function hostOf(address: Address): string {
  return address.kind === "tcp" ? address.host : "";
}

function flagsOf(flags: object, prefix: TlsPrefix): TlsFlags {
  const values = flags as Readonly<Record<string, unknown>>;
  const start = prefix === "tls" ? "tls" : "toTls";
  const entries = Object.entries(ATTRIBUTES).map(([name, attribute]) => [name, values[start + attribute]]);
  return Object.fromEntries(entries.filter(([, value]) => value !== undefined)) as TlsFlags;
}
