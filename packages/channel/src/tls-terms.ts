/**
 * TLS terms: what one end of a migration brings into a handshake, as Node's `tls` takes it.
 *
 * Plain data, for it crosses to the TLS thread. Both QEMU's kinds of credentials
 * are here: certificates, where each side proves itself by a common authority,
 * and pre-shared keys, where both hold the same secret.
 */
import type { SecureContextOptions } from "node:tls";

export type TlsCredentials =
  | {
      readonly kind: "x509";
      /** Where they came from, for messages. */
      readonly directory: string;
      /** PEM, as all here; the authority that the peer's certificate must come from. */
      readonly authority: string;
      /** Certificates that the authority has taken back. */
      readonly revoked: string | null;
      /** Null where this side connects and proves nothing. */
      readonly identity: { readonly certificate: string; readonly key: string } | null;
    }
  | {
      readonly kind: "psk";
      readonly directory: string;
      readonly keys: ReadonlyMap<string, Uint8Array>;
    };

export type TlsListenTerms = {
  readonly role: "listen";
  readonly credentials: TlsCredentials;
  /** Whether who connects must show a certificate of the authority. */
  readonly verifyPeer: boolean;
};

export type TlsConnectTerms = {
  readonly role: "connect";
  readonly credentials: TlsCredentials;
  /** Name or IP address that the peer's certificate must bear. */
  readonly hostname: string;
  /** Of the key in `keys`. */
  readonly username: string;
};

export type TlsTerms = TlsListenTerms | TlsConnectTerms;

/**
 * Pre-shared keys for TLS 1.2, with forward secrecy where both know it; OpenSSL has no ECDHE-PSK with AES-GCM.
 * TLS 1.3 needs its suites here too, as does a peer that offers only those without an exchange.
 */
const PSK_CIPHERS = [
  "TLS_AES_128_GCM_SHA256",
  "TLS_AES_256_GCM_SHA384",
  "DHE-PSK-AES256-GCM-SHA384",
  "DHE-PSK-AES128-GCM-SHA256",
  "ECDHE-PSK-CHACHA20-POLY1305",
  "DHE-PSK-CHACHA20-POLY1305",
  "PSK-AES256-GCM-SHA384",
  "PSK-AES128-GCM-SHA256",
].join(":");

/** What both roles share. */
export function contextOptions(credentials: TlsCredentials): SecureContextOptions {
  if (credentials.kind === "psk") {
    // No authority at all, or a certificate of any public one would do instead of the key in TLS 1.3.
    return { minVersion: "TLSv1.2", ciphers: PSK_CIPHERS, ca: [] };
  }
  const { authority, revoked, identity } = credentials;
  return {
    minVersion: "TLSv1.2",
    ca: authority,
    ...(revoked !== null && { crl: revoked }),
    ...(identity !== null && { cert: identity.certificate, key: identity.key }),
  };
}
