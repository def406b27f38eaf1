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
const NO_COMMON_CIPHER: Told = {
  code: "TLS_KIND",
  says: "the two sides have no cipher in common; use the same kind of credentials, x509 or psk, on both, and a priority string at QEMU that allows it",
};
const VERSION: Told = {
  code: "TLS_VERSION",
  says: "the two sides have no version of TLS in common; this side takes 1.2 when listening, 1.2 and 1.3 when connecting: let the peer's priority string allow that",
};
const KEY: Told = {
  code: "TLS_KEY",
  says: "the two sides hold different pre-shared keys for this user; copy one keys.psk to both",
};

/** What OpenSSL says in the handshake, and alerts of the peer, by a part of the error's code; the first that fits. */
const HANDSHAKE_FAULTS: readonly (readonly [part: RegExp, told: Told])[] = [
  [
    /WRONG_VERSION_NUMBER|HTTP_REQUEST|PACKET_LENGTH_TOO_LONG|BAD_RECORD_TYPE|UNEXPECTED_MESSAGE|RECORD_LAYER/,
    PLAIN_PEER,
  ],
  [/PROTOCOL_VERSION|UNSUPPORTED_PROTOCOL|VERSION_TOO/, VERSION],
  [/NO_SHARED_CIPHER|NO_CIPHERS/, NO_COMMON_CIPHER],
  [
    /BINDER_DOES_NOT_VERIFY|DECRYPTION_FAILED_OR_BAD_RECORD_MAC|ALERT_BAD_RECORD_MAC|ALERT_DECRYPT_ERROR|DIGEST_CHECK/,
    KEY,
  ],
  [
    /PSK_IDENTITY|UNKNOWN_PSK/,
    {
      code: "TLS_USER",
      says: "one side has no pre-shared key for the user that connects; put it into keys.psk, or connect as another user",
    },
  ],
  [
    /DID_NOT_RETURN_A_CERTIFICATE|ALERT_CERTIFICATE_REQUIRED/,
    {
      code: "TLS_NO_CERTIFICATE",
      says: "the side that connects shows no certificate, which the other one demands; give it client-cert.pem and client-key.pem, or do not verify the peer",
    },
  ],
  [
    /ALERT_UNKNOWN_CA/,
    {
      code: "TLS_REFUSED",
      says: "the peer does not know the authority of this side's certificate; give both sides certificates of one authority",
    },
  ],
  [
    /ALERT_CERTIFICATE_EXPIRED/,
    {
      code: "TLS_REFUSED",
      says: "the peer finds this side's certificate out of date; renew it, and compare the clocks",
    },
  ],
  [
    /ALERT_(BAD|UNSUPPORTED|REVOKED)?_?CERTIFICATE|ALERT_ACCESS_DENIED|CERTIFICATE_(REVOKED|UNKNOWN)/,
    { code: "TLS_REFUSED", says: "the peer does not accept this side's certificate; its own log says why" },
  ],
  [/ALERT_HANDSHAKE_FAILURE|ALERT_INSUFFICIENT_SECURITY/, NO_COMMON_CIPHER],
];

/** The error of a handshake that failed, or of a connection that broke, as OpenSSL or the system tells it. */
export function describeTlsFailure(error: Error | string, terms: TlsTerms): MigrationError {
  const code = typeof error === "string" ? error : ((error as NodeJS.ErrnoException).code ?? "");
  const detail = typeof error === "string" ? error : error.message;
  if (code === "ERR_TLS_CERT_ALTNAME_INVALID") return wrongName(error as Error, terms);
  const told = CERTIFICATE_FAULTS[code] ?? HANDSHAKE_FAULTS.find(([part]) => part.test(code))?.[1];
  if (told !== undefined) return new ConfigError(told.code, `TLS handshake: ${told.says} (${detail})`);
  if (/^E[A-Z]+$/.test(code)) {
    return new ChannelError("TLS_BROKEN", `the TLS connection broke (${detail}); the peer or the link went away`);
  }
  return new ProtocolError("TLS_FAILED", `the TLS connection failed: ${detail}`);
}

function wrongName(error: Error, terms: TlsTerms): ConfigError {
  const wanted = terms.role === "connect" ? terms.hostname : "";
  const { reason = error.message } = error as { reason?: string };
  return new ConfigError(
    "TLS_HOSTNAME",
    `TLS handshake: the destination's certificate is not for "${wanted}" (${reason}); connect by a name that it bears, or say which it must bear`,
  );
}

export function handshakeTimeout(timeoutMs: number): ChannelError {
  return new ChannelError(
    "TLS_HANDSHAKE_TIMEOUT",
    `the peer did not finish the TLS handshake within ${timeoutMs} ms; is TLS switched on there?`,
  );
}

/** The handshake went well on this side, and then the peer left without a word of the migration. */
export function peerLeft(terms: TlsTerms): ChannelError {
  const side = terms.role === "listen" ? "source" : "destination";
  return new ChannelError(
    "TLS_PEER_LEFT",
    `the ${side} closed the connection right after the TLS handshake; it may not accept this side's credentials (authority, name, key): its own log says why`,
  );
}
