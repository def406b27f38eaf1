/**
 * TLS connection: one handshake, and then bytes both ways, on the TLS thread.
 *
 *   plain pair ──▶ records of up to 16 KiB ──▶ socket
 *              ◀──                         ◀──
 *
 * Nothing is passed on before the peer has proved who it is. Back-pressure is the
 * streams' own: each direction holds a few chunks and then stops reading. An
 * end is passed on as an end, in its direction only; towards the peer that is
 * close_notify. Owns both descriptors.
 */
import { Socket } from "node:net";
import { connect, createServer, type PeerCertificate, type TLSSocket } from "node:tls";
import { describeError, type MigrationError } from "@multifd/protocol";
import { describeBrokenStream, describeHandshakeFailure, handshakeTimeout, isAlert, peerLeft } from "./tls-failure.js";
import type { TlsNews, TlsOrder } from "./tls-messages.js";
import { contextOptions, type TlsConnectTerms, type TlsListenTerms, type TlsTerms } from "./tls-terms.js";

/** How long the peer may take to close after us, before we hang up. */
const LINGER_MS = 2000;
/** Bytes under way in each direction before reading stops. */
const BUFFER_BYTES = 256 * 1024;
/** A peer that leaves before it got more than this has not begun: the handshake did not please it. */
const FIRST_WORDS_BYTES = 4096;
/** `tls` wants some bound of its own; ours ends the handshake before. */
const HANDSHAKE_MAX_MS = 2 ** 31 - 1;

type CarryOrder = Extract<TlsOrder, { kind: "carry" }>;

export class TlsConnection {
  readonly #terms: TlsTerms;
  readonly #connection: number;
  readonly #tell: (news: TlsNews) => void;
  readonly #onClose: () => void;
  readonly #socket: Socket;
  readonly #plain: Socket;
  /** Null until the handshake is done. */
  #secure: TLSSocket | null = null;
  #ended = false;
  #clock: NodeJS.Timeout | undefined;

  /** @param onClose  Called once, when both descriptors are closed or about to be. */
  constructor(order: CarryOrder, terms: TlsTerms, tell: (news: TlsNews) => void, onClose: () => void) {
    this.#terms = terms;
    this.#onClose = onClose;
    this.#connection = order.connection;
    this.#tell = tell;
    this.#socket = openSocket(order.socket);
    this.#plain = openSocket(order.plain);
    this.#socket.on("error", (error) => this.#fail(error)); // before TLS takes its errors over
    if (order.timeoutMs > 0) {
      this.#clock = setTimeout(() => this.#giveUp(handshakeTimeout(order.timeoutMs)), order.timeoutMs);
    }
    if (terms.role === "listen") this.#accept(terms);
    else this.#connect(terms);
  }

  /** Nobody is at the plain end any more: what was sent still goes out, and the peer may not take for ever. */
  leave(): void {
    if (this.#secure === null) this.#giveUp(null);
    else this.#linger(this.#secure);
  }

  #accept(terms: TlsListenTerms): void {
    const { credentials, verifyPeer } = terms;
    const demandsCertificate = credentials.kind === "x509" && verifyPeer;
    const server = createServer({
      ...contextOptions(credentials),
      // Not 1.3: its session tickets are never read by a QEMU source, whose close then becomes a reset, and a
      // reset destroys what is still under way.
      maxVersion: "TLSv1.2",
      dhparam: "auto",
      handshakeTimeout: HANDSHAKE_MAX_MS,
      requestCert: demandsCertificate,
      rejectUnauthorized: demandsCertificate,
      ...(credentials.kind === "psk" && {
        pskCallback: (_socket: TLSSocket, user: string) => credentials.keys.get(user) ?? null,
      }),
    });
    server.once("secureConnection", (secure) => this.#carry(secure));
    server.once("tlsClientError", (error, secure) => this.#fail(secure.authorizationError ?? error));
    server.emit("connection", this.#socket);
  }

  #connect(terms: TlsConnectTerms): void {
    const { credentials, hostname, username } = terms;
    const secure = connect({
      ...contextOptions(credentials),
      socket: this.#socket,
      host: hostname,
      ...(credentials.kind === "psk" && {
        pskCallback: () => ({ psk: credentials.keys.get(username)!, identity: username }),
        checkServerIdentity: refuseCertificate,
      }),
    });
    const failEarly = (error: Error) => this.#fail(error);
    secure.once("error", failEarly);
    secure.once("secureConnect", () => {
      secure.removeListener("error", failEarly);
      this.#carry(secure);
    });
  }

  #carry(secure: TLSSocket): void {
    this.#secure = secure;
    clearTimeout(this.#clock);
    const plain = this.#plain;
    for (const stream of [secure, plain]) stream.allowHalfOpen = true;
    let broken: Error | null = null;
    secure.on("error", (error) => {
      broken = error;
    });
    // In this order: the reason is told before the pipe passes the end on.
    secure.once("end", () => this.#end(this.#hasBegun() ? null : peerLeft(this.#terms)));
    secure.once("close", () => {
      this.#end(broken === null ? null : this.#describeBreak(broken));
      clearTimeout(this.#clock);
      plain.end(() => plain.destroy());
      this.#onClose();
    });
    const hangUp = () => {
      if (secure.destroyed) return;
      secure.end();
      secure.unpipe(plain);
      secure.resume(); // what is left unread would turn our close into a reset
      this.#linger(secure);
    };
    plain.on("error", hangUp);
    plain.once("close", hangUp);
    this.#tell({ kind: "secured", connection: this.#connection });
    plain.pipe(secure);
    secure.pipe(plain);
  }

  /** In TLS 1.3 the destination's verdict on our certificate comes after the handshake is done here. */
  #describeBreak(error: Error): MigrationError {
    if (this.#hasBegun()) return describeBrokenStream(error);
    return isAlert(error) ? describeHandshakeFailure(error, this.#terms) : peerLeft(this.#terms);
  }

  #linger(secure: TLSSocket): void {
    if (secure.destroyed) return;
    clearTimeout(this.#clock);
    this.#clock = setTimeout(() => secure.destroy(), LINGER_MS);
  }

  /** Whether the migration itself has begun: a peer that leaves before that found fault with the handshake. */
  #hasBegun(): boolean {
    const receivedBytes = this.#plain.bytesWritten;
    if (receivedBytes > 0) return true;
    return this.#terms.role === "connect" && this.#plain.bytesRead > FIRST_WORDS_BYTES;
  }

  #fail(error: Error | string): void {
    if (this.#secure !== null) return;
    const probe = this.#terms.role === "listen" && this.#socket.bytesRead === 0;
    this.#giveUp(probe ? null : describeHandshakeFailure(error, this.#terms));
  }

  #giveUp(error: MigrationError | null): void {
    clearTimeout(this.#clock);
    this.#end(error);
    this.#socket.destroy();
    this.#plain.destroy();
    this.#onClose();
  }

  #end(error: MigrationError | null): void {
    if (this.#ended) return;
    this.#ended = true;
    this.#tell({ kind: "ended", connection: this.#connection, error: describeError(error) });
  }
}

function openSocket(fd: number): Socket {
  return new Socket({
    fd,
    readable: true,
    writable: true,
    // Also under TLS, until it is carried: who leaves in the middle of a handshake has left it for good.
    allowHalfOpen: false,
    highWaterMark: BUFFER_BYTES,
  } as ConstructorParameters<typeof Socket>[0]);
}

/** A peer with the key shows no certificate; one that shows a certificate does not have the key. */
function refuseCertificate(_host: string, certificate: PeerCertificate): Error | undefined {
  if (Object.keys(certificate ?? {}).length === 0) return undefined;
  return Object.assign(new Error("the peer shows a certificate, a pre-shared key was due"), { code: "PSK_REFUSED" });
}
