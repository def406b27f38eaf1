/**
 * Certificates: directories of credentials as QEMU's `tls-creds` objects and our flags read them, made for one test run.
 *
 * The `openssl` program makes them, on elliptic curves, for a run should not wait for primes.
 */
import { execFileSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import { copyFileSync, mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";

export type CertificateWishes = {
  /** DNS names and IP addresses of the server's certificate, as `subjectAltName` writes them. */
  readonly serverNames?: string;
  /** Which side's certificate is out of date already. */
  readonly expired?: "server" | "client";
  /** Whether there is a client's certificate; there is unless switched off. */
  readonly client?: boolean;
};

const SERVER_NAMES = "DNS:localhost,DNS:vm.example,IP:127.0.0.1";
const NEW_KEY = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc"];
const DAYS = { good: "2", expired: "-1" } as const;

/** Makes a certificate authority in `dir`, which is made too. */
export function makeAuthority(dir: string): void {
  mkdirSync(dir);
  openssl(dir, [
    ...["req", "-x509", ...NEW_KEY, "-keyout", "ca-key.pem", "-out", "ca-cert.pem", "-days", DAYS.good],
    ...["-subj", "/CN=authority of a test", "-addext", "basicConstraints=critical,CA:TRUE"],
    ...["-addext", "keyUsage=critical,keyCertSign,cRLSign"],
  ]);
}

/** Fills a new directory with both sides' certificates of the authority in `authority`. */
export function makeCertificates(dir: string, authority: string, wishes: CertificateWishes = {}): void {
  const { serverNames = SERVER_NAMES, expired, client = true } = wishes;
  mkdirSync(dir);
  copyFileSync(join(authority, "ca-cert.pem"), join(dir, "ca-cert.pem"));
  for (const side of client ? (["server", "client"] as const) : (["server"] as const)) {
    openssl(dir, [
      ...["req", "-new", ...NEW_KEY, "-keyout", `${side}-key.pem`, "-out", `${side}.csr`],
      ...["-subj", `/CN=${side} of a test`, "-addext", "basicConstraints=critical,CA:FALSE"],
      ...["-addext", `subjectAltName=${side === "server" ? serverNames : "DNS:client.example"}`],
      ...["-addext", `extendedKeyUsage=${side}Auth`, "-addext", "keyUsage=critical,digitalSignature"],
    ]);
    openssl(dir, [
      ...["x509", "-req", "-in", `${side}.csr`, "-out", `${side}-cert.pem`, "-copy_extensions", "copyall"],
      ...["-CA", join(authority, "ca-cert.pem"), "-CAkey", join(authority, "ca-key.pem")],
      ...["-days", side === expired ? DAYS.expired : DAYS.good],
    ]);
  }
}

/** Fills a new directory with a pre-shared key for each user. */
export function makeKeys(dir: string, users: readonly string[] = ["qemu"]): void {
  mkdirSync(dir);
  writeFileSync(join(dir, "keys.psk"), users.map((user) => `${user}:${randomBytes(16).toString("hex")}\n`).join(""));
}

/** What has a QEMU use such a directory: its arguments, and the migration parameter that names the object. */
export function tlsObject(
  kind: "x509" | "psk",
  dir: string,
  endpoint: "client" | "server",
): { readonly args: readonly string[]; readonly parameters: Readonly<Record<string, unknown>> } {
  return {
    args: ["-object", `tls-creds-${kind},id=tls0,dir=${dir},endpoint=${endpoint}`],
    parameters: { "tls-creds": "tls0" },
  };
}

function openssl(dir: string, args: readonly string[]): void {
  try {
    execFileSync("openssl", args, { cwd: dir, stdio: ["ignore", "ignore", "pipe"] });
  } catch (cause) {
    throw new Error("certificates: openssl does not make them; install it with: sh test/peers/setup.sh", { cause });
  }
}
