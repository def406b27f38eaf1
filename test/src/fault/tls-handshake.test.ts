/**
 * TLS between our own two ends, where it must fail: each end tells one reason that the operator can act on.
 */
import assert from "node:assert/strict";
import { once } from "node:events";
import { copyFileSync, rmSync } from "node:fs";
import { type AddressInfo, connect, createServer, type Server, type Socket } from "node:net";
import { join } from "node:path";
import {
  type Address,
  formatAddress,
  parseAddress,
  readTlsCredentials,
  type TlsConnectTerms,
  type TlsListenTerms,
} from "@multifd/channel";
import { runSource, StoppedRam } from "@multifd/engine";
import { QemuSourcePeer } from "@multifd/peer-qemu";
import { MigrationError } from "@multifd/protocol";
import { type ReceiverOptions, startReceiver } from "../e2e/receiver.js";
import {
  assertSameBytes,
  createScratchDir,
  makeAuthority,
  makeCertificates,
  makeKeys,
  randomImage,
  removeScratchDir,
} from "../peers/index.js";
import { ownError } from "./refusal.js";

const BYTES = 2 ** 20;
const LARGE = 32 * 2 ** 20;
const IMPATIENT_MS = 400;

/** A directory of credentials, or null for a plain end. */
type Side = string | null;
type SendOptions = { readonly image?: string; readonly connectTimeoutMs?: number; readonly signal?: AbortSignal };
type Due = { readonly code: string; readonly says: RegExp };

describe("TLS that fails", function () {
  this.timeout(20_000);
  let dir: string;
  const path = (name: string) => join(dir, name);
  before(() => {
    dir = createScratchDir();
    for (const authority of ["authority", "stranger"]) makeAuthority(path(authority));
    makeCertificates(path("good"), path("authority"));
    makeCertificates(path("foreign"), path("stranger"));
    makeCertificates(path("old-server"), path("authority"), { expired: "server" });
    makeCertificates(path("old-client"), path("authority"), { expired: "client" });
    makeCertificates(path("other-name"), path("authority"), { serverNames: "DNS:other.example,IP:192.0.2.1" });
    makeCertificates(path("no-client"), path("authority"), { client: false });
    // Of one authority, and judging by the other.
    makeCertificates(path("mixed"), path("stranger"));
    copyFileSync(path("authority/ca-cert.pem"), path("mixed/ca-cert.pem"));
    makeKeys(path("key"), ["qemu", "alice"]);
    makeKeys(path("other-key"), ["qemu"]);
    randomImage(path("source"), BYTES, 5);
    randomImage(path("large"), LARGE, 6);
  });
  after(() => removeScratchDir(dir));
  afterEach(() => rmSync(path("received"), { force: true }));

  const listening = (side: Side): { tls?: TlsListenTerms } =>
    side === null
      ? {}
      : { tls: { role: "listen", credentials: readTlsCredentials(path(side), "listen"), verifyPeer: true } };
  const connecting = (side: Side, username = "qemu"): { tls?: TlsConnectTerms } =>
    side === null
      ? {}
      : {
          tls: {
            role: "connect",
            credentials: readTlsCredentials(path(side), "connect"),
            hostname: "127.0.0.1",
            username,
          },
        };

  const receive = (side: Side, options: Partial<ReceiverOptions> = {}) =>
    startReceiver({
      listen: "tcp:127.0.0.1:0",
      channels: 2,
      compression: "none",
      ram: { "pc.ram": path("received") },
      handshakeTimeoutMs: 5000,
      stallTimeoutMs: 5000,
      ...listening(side),
      ...options,
    });

  /** How a source ends that sends there. */
  const send = async (address: string, tls: { tls?: TlsConnectTerms }, options: SendOptions = {}) => {
    const { image = "source", connectTimeoutMs = 5000, signal } = options;
    const guest = StoppedRam.open(new Map([["pc.ram", path(image)]]), 4096, { kept: [], blockNames: [] });
    try {
      await runSource({
        guest,
        peer: new QemuSourcePeer({ address: parseAddress(address), channels: 2, connectTimeoutMs, ...tls }),
        onEvent: () => {},
        ...(signal && { signal }),
        compression: "none",
        level: 1,
        devices: null,
        downtimeLimitMs: 300,
        maxBandwidth: 0,
        roundsMax: 1,
        atRoundLimit: "fail",
        stallTimeoutMs: 5000,
      });
      return null;
    } catch (error) {
      return ownError(error);
    } finally {
      guest.close();
    }
  };

  const assertTold = (error: MigrationError | null, due: Due) => {
    assert.ok(error !== null, "it succeeded where it had to fail");
    assert.ok(error instanceof MigrationError);
    assert.equal(error.code, due.code, error.message);
    assert.match(error.message, due.says);
  };

  const LEFT: Due = {
    code: "TLS_PEER_LEFT",
    says: /source closed the connection right after the TLS handshake; .*its own log/,
  };
  const TURNED_AWAY: Due = {
    code: "TLS_PEER_LEFT",
    says: /destination closed the connection in the TLS handshake .*may speak plainly, or not accept/,
  };
  const mismatches: readonly {
    readonly what: string;
    readonly from: Side;
    readonly user?: string;
    readonly to: Side;
    readonly source: Due;
    readonly destination: Due;
  }[] = [
    {
      what: "a destination of another authority",
      from: "mixed",
      to: "foreign",
      source: { code: "TLS_UNTRUSTED", says: /does not come from the authority in ca-cert.pem/ },
      destination: LEFT,
    },
    {
      what: "a source of another authority",
      from: "mixed",
      to: "good",
      source: TURNED_AWAY,
      destination: { code: "TLS_UNTRUSTED", says: /does not come from the authority in ca-cert.pem/ },
    },
    {
      what: "a destination by another name",
      from: "good",
      to: "other-name",
      source: { code: "TLS_HOSTNAME", says: /not for "127.0.0.1" .*192.0.2.1.*; connect by a name that it bears/ },
      destination: LEFT,
    },
    {
      what: "a destination whose certificate is out of date",
      from: "good",
      to: "old-server",
      source: { code: "TLS_EXPIRED", says: /out of date; renew it there/ },
      destination: LEFT,
    },
    {
      what: "a source whose certificate is out of date",
      from: "old-client",
      to: "good",
      source: TURNED_AWAY,
      destination: { code: "TLS_EXPIRED", says: /out of date; renew it there/ },
    },
    {
      what: "a source without a certificate",
      from: "no-client",
      to: "good",
      source: { code: "TLS_NO_CERTIFICATE", says: /give the source client-cert.pem/ },
      destination: { code: "TLS_NO_CERTIFICATE", says: /give the source client-cert.pem/ },
    },
    {
      what: "different keys",
      from: "key",
      to: "other-key",
      source: { code: "TLS_KEY", says: /different pre-shared keys/ },
      destination: { code: "TLS_KEY", says: /different pre-shared keys/ },
    },
    {
      what: "a user without a key",
      from: "key",
      user: "alice",
      to: "other-key",
      source: { code: "TLS_USER", says: /no key for the user "alice"/ },
      destination: { code: "TLS_USER", says: /keys.psk holds no key/ },
    },
    {
      what: "a key against certificates",
      from: "key",
      to: "good",
      source: { code: "TLS_KIND", says: /the same kind of credentials/ },
      destination: { code: "TLS_KIND", says: /the same kind of credentials/ },
    },
    {
      what: "certificates against a key",
      from: "good",
      to: "key",
      source: { code: "TLS_KIND", says: /the same kind of credentials/ },
      destination: { code: "TLS_KIND", says: /the same kind of credentials/ },
    },
    {
      what: "a plain source",
      from: null,
      to: "good",
      source: { code: "CHANNEL_BROKEN", says: /main channel/ },
      destination: { code: "TLS_PLAIN_PEER", says: /speaks plainly where TLS was due/ },
    },
    {
      what: "a plain destination",
      from: "good",
      to: null,
      source: TURNED_AWAY,
      destination: { code: "CONNECTION_MAGIC", says: /looks like TLS: give this side credentials/ },
    },
  ];
  for (const { what, from, user, to, source, destination } of mismatches) {
    it(`names ${what} at both ends`, async () => {
      const receiver = await receive(to);
      const [sent, received] = await Promise.all([
        send(formatAddress(receiver.address), connecting(from, user)),
        receiver.result.then(() => null, ownError),
      ]);
      assertTold(sent, source);
      assertTold(received, destination);
    });
  }

  it("moves a guest where nothing is wrong, past a probe that says nothing", async () => {
    const receiver = await receive("good");
    await probe(receiver.address);
    assert.equal(await send(formatAddress(receiver.address), connecting("good")), null);
    assert.equal((await receiver.result).acknowledged, true);
    assertSameBytes(path("source"), path("received"));
  });

  it("takes a source without a certificate where none is demanded", async () => {
    const tls: TlsListenTerms = {
      role: "listen",
      credentials: readTlsCredentials(path("good"), "listen"),
      verifyPeer: false,
    };
    const receiver = await receive("good", { tls });
    assert.equal(await send(formatAddress(receiver.address), connecting("no-client")), null);
    assert.equal((await receiver.result).acknowledged, true);
  });

  it("names a source that connects and never begins the handshake", async () => {
    const receiver = await receive("good", { handshakeTimeoutMs: IMPATIENT_MS });
    const silent = await reach(receiver.address);
    await assert.rejects(receiver.result, {
      code: "TLS_HANDSHAKE_TIMEOUT",
      message: /: 1 connected and did not finish the TLS handshake within 400 ms of the first connection/,
    });
    silent.destroy();
  });

  it("names a destination that accepts and never answers the handshake", async () => {
    const accepted: Socket[] = [];
    const mute = createServer((socket) => accepted.push(socket));
    const address = await listenAnywhere(mute);
    const told = await send(address, connecting("good"), { connectTimeoutMs: IMPATIENT_MS });
    assertTold(told, {
      code: "TLS_HANDSHAKE_TIMEOUT",
      says: /^tcp:127.*did not finish the TLS handshake within 400 ms/,
    });
    for (const socket of accepted) socket.destroy();
    mute.close();
  });

  it("is cancelled in the middle of a handshake", async () => {
    const cancel = new AbortController();
    const mute = createServer((socket) => {
      socket.on("error", () => {}); // hung up on
      socket.resume();
      cancel.abort();
    });
    const address = await listenAnywhere(mute);
    const told = await send(address, connecting("good"), { signal: cancel.signal });
    assertTold(told, { code: "CANCELLED", says: /cancelled/ });
    mute.close();
  });

  // Which channel notices first, and whether before or behind its last bytes, is the kernel's choice.
  const CUT = ["TLS_BROKEN", "CHANNEL_BROKEN", "CHANNEL_CUT", "CHANNEL_ENDED_EARLY", "STREAM_CUT"];
  for (const [how, cut] of [
    ["reset", "resetAndDestroy"],
    ["closed", "destroy"],
  ] as const) {
    it(`ends on both sides when the link is ${how} in the middle`, async () => {
      const receiver = await receive("good");
      const middle = cuttingLink(receiver.address, LARGE / 4, (socket) => socket[cut]());
      try {
        const address = await listenAnywhere(middle);
        const [sent, received] = await Promise.all([
          send(address, connecting("good"), { image: "large" }),
          receiver.result.then(() => null, ownError),
        ]);
        for (const end of [sent, received]) assert.ok(end && CUT.includes(end.code), `${end?.code}: ${end?.message}`);
      } finally {
        middle.close();
      }
    });
  }
});

async function listenAnywhere(server: Server): Promise<string> {
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  return `tcp:127.0.0.1:${(server.address() as AddressInfo).port}`;
}

async function reach(address: Address): Promise<Socket> {
  assert.ok(address.kind === "tcp");
  const socket = connect(address.port, "127.0.0.1");
  await once(socket, "connect");
  return socket;
}

/** Connects, says nothing, leaves, and waits until the other end has noticed. */
async function probe(address: Address): Promise<void> {
  const socket = await reach(address);
  socket.end();
  socket.resume();
  await once(socket, "close");
}

/** Passes connections on to `address`, and cuts all of them once `bytes` have crossed. */
function cuttingLink(address: Address, bytes: number, cut: (socket: Socket) => void): Server {
  const sockets: Socket[] = [];
  let crossed = 0;
  return createServer(async (near) => {
    const far = await reach(address);
    sockets.push(near, far);
    for (const socket of [near, far]) socket.on("error", () => {}); // its other half was cut
    near.on("data", (chunk: Buffer) => {
      crossed += chunk.length;
      if (crossed > bytes) for (const socket of sockets.splice(0)) cut(socket);
      else far.write(chunk);
    });
    far.pipe(near);
    near.once("end", () => far.end());
  });
}
