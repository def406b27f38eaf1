/**
 * TLS failures: OpenSSL's words, turned into what an operator can act on.
 *
 * What one side's credentials are to blame for is a ConfigError, what the link or
 * a silent peer did is a ChannelError. An alert is the peer's word about us: its
 * remedy often lies on this side.
 */
import { ChannelError, ConfigError, type MigrationError, ProtocolError } from "@multifd/protocol";
import type { TlsTerms } from "./tls-terms.js";

type Told = { readonly code: string; readonly says: string };

const UNTRUSTED: Told = {
  code: "TLS_UNTRUSTED",
  says: "the peer's certificate does not come from the authority in ca-cert.pem; give both sides certificates of one authority",
};
const VALIDITY: Told = {
  code: "TLS_EXPIRED",
  says: "the peer's certificate or its authority's is out of date; renew it there, and compare the clocks",
};
const REVOCATION_LIST: Told = {
  code: "TLS_CRL",
  says: "ca-crl.pem does not cover the peer's authority or is out of date; renew it",
};

/** What we found wrong with the peer's certificate. Source: OpenSSL 3.0, x509_vfy.h; Node.js, tls, X509 errors. */
const CERTIFICATE_FAULTS: Readonly<Record<string, Told>> = {
  UNABLE_TO_VERIFY_LEAF_SIGNATURE: UNTRUSTED,
  UNABLE_TO_GET_ISSUER_CERT: UNTRUSTED,
  UNABLE_TO_GET_ISSUER_CERT_LOCALLY: UNTRUSTED,
  SELF_SIGNED_CERT_IN_CHAIN: UNTRUSTED,
  DEPTH_ZERO_SELF_SIGNED_CERT: UNTRUSTED,
  CERT_SIGNATURE_FAILURE: UNTRUSTED,
  CERT_HAS_EXPIRED: VALIDITY,
  CERT_NOT_YET_VALID: VALIDITY,
  CERT_REVOKED: {
    code: "TLS_REVOKED",
    says: "the peer's certificate is on the list ca-crl.pem; give the peer a new one",
  },
  CRL_HAS_EXPIRED: REVOCATION_LIST,
  CRL_NOT_YET_VALID: REVOCATION_LIST,
  UNABLE_TO_GET_CRL: REVOCATION_LIST,
  CRL_SIGNATURE_FAILURE: REVOCATION_LIST,
  INVALID_PURPOSE: {
    code: "TLS_PURPOSE",
    says: "the peer's certificate is not made for its side: a destination needs one for servers, a source one for clients",
  },
  PSK_REFUSED: {
    code: "TLS_KIND",
    says: "the peer shows a certificate, a pre-shared key was due; use the same kind of credentials on both sides",
  },
};

const PLAIN_PEER: Told = {
  code: "TLS_PLAIN_PEER",
  says: "the peer speaks plainly where TLS was due; switch TLS on there, or off here",
};
const VERSION: Told = {
  code: "TLS_VERSION",
  says: "the two sides have no version of TLS in common; this side takes 1.2 when listening, 1.2 and 1.3 when connecting: let the peer's priority string allow that",
};
const KIND: Told = {
  code: "TLS_KIND",
  says: "the two sides have no cipher in common; use the same kind of credentials, x509 or psk, on both, and at QEMU a priority string that allows it",
};
const KEY: Told = {
  code: "TLS_KEY",
  says: "the two sides hold different pre-shared keys for this user; copy one keys.psk to both",
};
const NO_CERTIFICATE: Told = {
  code: "TLS_NO_CERTIFICATE",
  says: "the source shows no certificate and the destination demands one; give the source client-cert.pem and client-key.pem, or do not verify the peer at the destination",
};

/** What OpenSSL says in a handshake, alerts of the peer included, by a part of the error's code; the first that fits. */
const HANDSHAKE_FAULTS: readonly (readonly [part: RegExp, told: Told])[] = [
  [/WRONG_VERSION_NUMBER|HTTP_REQUEST|PACKET_LENGTH_TOO_LONG|BAD_RECORD_TYPE/, PLAIN_PEER],
  [/PROTOCOL_VERSION|UNSUPPORTED_PROTOCOL|VERSION_TOO/, VERSION],
  [/NO_SHARED_CIPHER|NO_CIPHERS|ALERT_HANDSHAKE_FAILURE|ALERT_INSUFFICIENT_SECURITY/, KIND],
  [/BINDER_DOES_NOT_VERIFY|BAD_RECORD_MAC|DECRYPT_ERROR|CIPHER_OPERATION_FAILED|DIGEST_CHECK_FAILED/, KEY],
  [/DID_NOT_RETURN_A_CERTIFICATE|ALERT_CERTIFICATE_REQUIRED/, NO_CERTIFICATE],
  [/ALERT_.*(CERTIFICATE|UNKNOWN_CA|ACCESS_DENIED)/, refusedBy("the peer does not accept this side's certificate")],
];

function refusedBy(what: string): Told {
  return { code: "TLS_REFUSED", says: `${what}; its own log says why: authority, dates, purpose or name` };
}

/** The error of a handshake that failed, as OpenSSL, Node or the system tells it. */
export function describeHandshakeFailure(error: Error | string, terms: TlsTerms): MigrationError {
  const { code, detail } = read(error);
  if (code === "ERR_TLS_CERT_ALTNAME_INVALID") return wrongName(detail, terms);
  if (isSystemError(code)) return leftInHandshake(detail, terms);
  const told = findFault(code, terms);
  if (told === undefined) return new ProtocolError("TLS_FAILED", `TLS handshake: ${detail}`);
  return new ConfigError(told.code, `TLS handshake: ${told.says} (${detail})`);
}

function findFault(code: string, terms: TlsTerms): Told | undefined {
  if (/PSK_IDENTITY/.test(code)) return unknownUser(terms);
  const { credentials, role } = terms;
  // TLS 1.2 has one alert for both.
  const bare = role === "connect" && credentials.kind === "x509" && credentials.identity === null;
  if (bare && /ALERT_HANDSHAKE_FAILURE/.test(code)) return NO_CERTIFICATE;
  return CERTIFICATE_FAULTS[code] ?? HANDSHAKE_FAULTS.find(([part]) => part.test(code))?.[1];
}

function unknownUser(terms: TlsTerms): Told {
  const says =
    terms.role === "listen"
      ? "keys.psk holds no key for the user as whom the source connects; add one, or connect as another user there"
      : `the destination has no key for the user "${terms.username}"; add one there, or connect as another user`;
  return { code: "TLS_USER", says };
}

function wrongName(detail: string, terms: TlsTerms): ConfigError {
  const wanted = terms.role === "connect" ? terms.hostname : "";
  return new ConfigError(
    "TLS_HOSTNAME",
    `TLS handshake: the destination's certificate is not for "${wanted}" (${detail}); connect by a name that it bears, or say which it must bear`,
  );
}

function leftInHandshake(detail: string, terms: TlsTerms): ChannelError {
  return new ChannelError(
    "TLS_PEER_LEFT",
    `the ${peerOf(terms)} closed the connection in the TLS handshake (${detail}); it may speak plainly, or not accept this side's certificate: its own log says why`,
  );
}

/** The error that broke a connection in mid-stream. */
export function describeBrokenStream(error: Error): MigrationError {
  const { code, detail } = read(error);
  if (isSystemError(code)) {
    return new ChannelError("TLS_BROKEN", `the TLS connection broke (${detail}); the peer or the link went away`);
  }
  return new ProtocolError("TLS_FAILED", `the TLS connection failed (${detail}); were its bytes changed on their way?`);
}

function read(error: Error | string): { readonly code: string; readonly detail: string } {
  if (typeof error === "string") return { code: error, detail: error };
  const { code = "", reason, message } = error as NodeJS.ErrnoException & { reason?: string };
  return { code, detail: reason ?? message.trim() };
}

/** ECONNRESET and its like, also where Node says it of a peer that simply closed. */
function isSystemError(code: string): boolean {
  return /^E[A-Z]+$/.test(code);
}

/** Whether it is the peer's word that it refuses this side. */
export function isAlert(error: Error): boolean {
  return /_ALERT_/.test(read(error).code);
}

function peerOf(terms: TlsTerms): string {
  return terms.role === "listen" ? "source" : "destination";
}

export function handshakeTimeout(timeoutMs: number): ChannelError {
  return new ChannelError(
    "TLS_HANDSHAKE_TIMEOUT",
    `the peer did not finish the TLS handshake within ${timeoutMs} ms; is TLS switched on there?`,
  );
}

/** The handshake went well on this side, and then the peer left without a word of the migration. */
export function peerLeft(terms: TlsTerms): ChannelError {
  return new ChannelError(
    "TLS_PEER_LEFT",
    `the ${peerOf(terms)} closed the connection right after the TLS handshake; it may not accept this side's credentials (authority, name, key): its own log says why`,
  );
}
