/** Connections that are not what they should be, before the first packet: each is named and refused. */
import { parseUuid } from "@multifd/protocol";
import type { Recording } from "../recorder.js";
import type { Patch } from "../replayer.js";
import { recordQemu } from "./recordings.js";
import { assertRefused, type SpoiltStream } from "./refusal.js";

const ID_AT = 24;
const UUID_AT = 8;
const OTHER_UUID = "11111111-2222-3333-4444-555555555555";
/** Short, for those who are missing never come. */
const IMPATIENT = { handshakeTimeoutMs: 250 };

describe("a receiver refuses at the handshake", function () {
  this.timeout(20_000);
  let recording: Recording;
  before(async () => {
    recording = await recordQemu("11.1", "none");
  });

  const patched = (...patch: Patch[]): SpoiltStream => ({ recording, faults: { patch } });

  it("a connection that begins with neither magic", () =>
    assertRefused(patched({ stream: 1, at: 0, bytes: Uint8Array.of(0x99) }), {
      code: "CONNECTION_MAGIC",
      says: /began with 99223344; 5145564d .* or 11223344 .* was due/,
    }));

  it("a main channel that begins with neither magic", () =>
    assertRefused(patched({ stream: "main", at: 0, bytes: Uint8Array.of(0x16) }), {
      code: "CONNECTION_MAGIC",
      says: /began with 1645564d; .*TLS/,
    }));

  it("a second main channel", () =>
    assertRefused(patched({ stream: 0, at: 0, bytes: Buffer.from("QEVM") }), {
      code: "MAIN_CHANNEL_TWICE",
      says: /two connections began as main channel/,
    }));

  it("a wrong version of multifd", () =>
    assertRefused(patched({ stream: 1, at: 7, bytes: Uint8Array.of(2) }), {
      code: "MULTIFD_VERSION",
      says: /multifd init message, version: 0x2 came, 0x1 was due/,
    }));

  it("a wrong version of the main stream", () =>
    assertRefused(patched({ stream: "main", at: 7, bytes: Uint8Array.of(4) }), {
      code: "STREAM_VERSION",
      says: /main channel, byte 8, file header: version 4 came, 3 was due/,
    }));

  it("channels of different VMs", () =>
    assertRefused(patched({ stream: 1, at: UUID_AT, bytes: parseUuid(OTHER_UUID) }), {
      code: "MULTIFD_UUID",
      says: /channel [01] bears UUID .*the channels before it bear/,
    }));

  it("channels of another VM than the one it was told", () =>
    assertRefused(
      { recording, receiver: { uuid: parseUuid(OTHER_UUID) } },
      { code: "MULTIFD_UUID", says: /channel [01] bears UUID 0f1e2d3c.*this side expects 11111111/ },
    ));

  it("a channel number that came before", () =>
    assertRefused(patched({ stream: 1, at: ID_AT, bytes: Uint8Array.of(0) }), {
      code: "MULTIFD_CHANNEL_TWICE",
      says: /channel 0 came twice/,
    }));

  for (const number of [2, 3, 255]) {
    it(`channel number ${number} of two`, () =>
      assertRefused(patched({ stream: 1, at: ID_AT, bytes: Uint8Array.of(number) }), {
        code: "MULTIFD_CHANNEL_ID",
        says: new RegExp(`channel ${number} came, this side expects 2 \\(0 to 1\\)`),
      }));
  }

  it("more channels than it was told", () =>
    assertRefused(
      { recording, receiver: { channels: 1 } },
      { code: "MULTIFD_CHANNEL_ID", says: /channel 1 came, this side expects 1 .*same number of channels/ },
    ));

  it("fewer channels than it was told, named after the time it was given", () =>
    assertRefused(
      { recording, receiver: { channels: 4, ...IMPATIENT } },
      { code: "CHANNELS_MISSING", says: /channel 2, channel 3 did not come within 250 ms/ },
    ));

  it("a channel that never comes", () =>
    assertRefused(
      { recording, faults: { omitChannels: [0] }, receiver: IMPATIENT },
      { code: "CHANNELS_MISSING", says: /socket: channel 0 did not come within 250 ms/ },
    ));

  it("a connection that says nothing in place of a channel", () =>
    assertRefused(
      { recording, faults: { omitChannels: [1], silentConnections: 1 }, receiver: IMPATIENT },
      { code: "CHANNELS_MISSING", says: /channel 1 did not come .*1 connected without saying what they are/ },
    ));

  it("connections of which none says anything", () =>
    assertRefused(
      {
        recording,
        faults: { omitChannels: [0, 1], silentConnections: 2, cutMainAt: 0, holdOpen: true },
        receiver: IMPATIENT,
      },
      { code: "CHANNELS_MISSING", says: /the main channel, channel 0, channel 1 did not come .*3 connected without/ },
    ));

  it("a channel that stops inside its first message and stays", () =>
    assertRefused(
      { recording, faults: { cutChannelAt: { channel: 0, bytes: 63 }, holdOpen: true }, receiver: IMPATIENT },
      { code: "CHANNELS_MISSING", says: /channel 0 did not come/ },
    ));

  it("a main channel that stops behind its magic and stays", () =>
    assertRefused(
      { recording, faults: { cutMainAt: 4, holdOpen: true }, receiver: { stallTimeoutMs: 250 } },
      { code: "STALLED", says: /nothing has moved for 250 ms/ },
    ));
});
