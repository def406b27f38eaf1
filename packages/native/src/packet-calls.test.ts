import assert from "node:assert/strict";
import { randomFillSync } from "node:crypto";
import {
  announce,
  type Block,
  HEADER_BYTES,
  listPages,
  makeBlock,
  packetFrom,
  packetInto,
  receiveInThread,
  type Through,
} from "./fixture.js";
import { writeMemory } from "./mapping.js";
import { PAYLOAD_BYTES_MAX, PacketBlock } from "./packet-block.js";
import { clearPages, placePages, preparePacket, receiveHeader, receivePages, sendPacket } from "./packet-calls.js";
import { sendBytes, setSocketTimeout } from "./socket-streams.js";
import { closeDescriptor, shutdownSending, shutdownSocket, socketPair } from "./sockets.js";

const pageBytes = 4096;
const blockBytes = 32 * pageBytes;
const defect = { name: "AssertionError" };

describe("packet calls", () => {
  const image = randomFillSync(new Uint8Array(blockBytes));
  let source: Block;
  let destination: Block;
  let ours: number;
  let theirs: number;
  beforeEach(() => {
    source = makeBlock(blockBytes, image);
    destination = makeBlock(blockBytes);
    [ours, theirs] = socketPair();
  });
  afterEach(() => {
    source.close();
    destination.close();
    closeDescriptor(ours);
    closeDescriptor(theirs);
  });

  /** A packet at each end of the socket pair. */
  function ends(through: Through = "file"): [PacketBlock, PacketBlock] {
    const out = packetFrom(source, pageBytes);
    const into = packetInto(destination, pageBytes, through);
    out.socket = ours;
    into.socket = theirs;
    return [out, into];
  }

  for (const through of ["mapping", "file", "fresh pages"] as const) {
    it(`move listed pages, runs and single ones, to the same places (through the ${through})`, () => {
      const [out, into] = ends(through);
      const pages = [31, 4, 5, 6, 0, 9, 8];
      listPages(out, pages);
      out.header.fill(0x5a, 0, HEADER_BYTES);
      assert.equal(preparePacket(out, true), pages.length * pageBytes);
      assert.equal(sendPacket(out), HEADER_BYTES + pages.length * pageBytes);
      assert.equal(receiveHeader(into), HEADER_BYTES);
      assert.deepEqual(into.header, out.header);
      announce(out, into);
      assert.equal(receivePages(into), pages.length * pageBytes);
      const expected = new Uint8Array(blockBytes);
      for (const page of pages) {
        expected.set(image.subarray(page * pageBytes, (page + 1) * pageBytes), page * pageBytes);
      }
      assert.deepEqual(destination.content(), expected);
    });

    it(`place pages that came by another way, and clear pages (through the ${through})`, () => {
      const [, into] = ends(through);
      listPages(into, [3, 30]);
      into.payload.fill(1, 0, pageBytes).fill(2, pageBytes, 2 * pageBytes);
      into.payloadBytes = 2 * pageBytes;
      placePages(into);
      assert.deepEqual([destination.content()[3 * pageBytes], destination.content()[31 * pageBytes - 1]], [1, 2]);
      into.pages[0] = 30;
      into.normalPages = 0;
      into.zeroPages = 1;
      clearPages(into);
      const after = destination.content();
      assert.deepEqual([after[3 * pageBytes], after[30 * pageBytes], after[31 * pageBytes - 1]], [1, 0, 0]);
    });

    it(`report a stream cut inside the pages (through the ${through})`, () => {
      const [, into] = ends(through);
      listPages(into, [0, 1]);
      into.payloadBytes = 2 * pageBytes;
      sendBytes(ours, new Uint8Array(2 * pageBytes - 1));
      shutdownSending(ours);
      assert.throws(() => receivePages(into), { name: "ChannelError", code: "CHANNEL_CUT" });
    });
  }

  it("tell a clean end from a header that was cut", () => {
    const [, into] = ends();
    sendBytes(ours, new Uint8Array(HEADER_BYTES + HEADER_BYTES - 1));
    shutdownSending(ours);
    assert.equal(receiveHeader(into), HEADER_BYTES);
    assert.throws(() => receiveHeader(into), { code: "CHANNEL_CUT" });
    assert.equal(receiveHeader(into), 0);
  });

  it("end a header early when a flag in its first bytes says so, and only then", () => {
    const [, into] = ends();
    into.shortHeader(12, 8, 64);
    const header = new Uint8Array(HEADER_BYTES).fill(0x80);
    sendBytes(ours, header);
    assert.equal(receiveHeader(into), HEADER_BYTES);
    header[11] = 0xc0;
    sendBytes(ours, header.subarray(0, 12));
    assert.equal(receiveHeader(into), 12);
  });

  it("read nothing for a packet without normal pages, whatever payload it announces", () => {
    const [, into] = ends();
    listPages(into, []);
    into.payloadBytes = 700;
    assert.equal(receivePages(into), 0);
  });

  it("refuse page indexes behind the block, before reading or writing anything", () => {
    const [out, into] = ends();
    sendBytes(ours, new Uint8Array(2 * pageBytes).fill(1));
    for (const page of [32, 33, 2 ** 32 - 1]) {
      for (const packet of [out, into]) {
        listPages(packet, [0, page]);
        packet.payloadBytes = 2 * pageBytes;
      }
      assert.throws(() => preparePacket(out, true), defect);
      assert.throws(() => receivePages(into), defect);
      assert.throws(() => placePages(into), defect);
      into.zeroPages = 2;
      assert.throws(() => clearPages(into), defect);
    }
    assert.ok(destination.content().every((byte) => byte === 0));
    listPages(into, [0, 1]);
    assert.equal(receivePages(into), 2 * pageBytes);
  });

  it("refuse page sizes, counts and codecs that make no sense", () => {
    const [out] = ends();
    for (const size of [0, 256, 4095, 131_072]) {
      listPages(out, [0]);
      out.pageBytes = size;
      assert.throws(() => preparePacket(out, true), defect);
    }
    out.pageBytes = pageBytes;
    out.normalPages = 1025;
    assert.throws(() => preparePacket(out, true), defect);
    out.normalPages = 1;
    out.codec = 1000;
    assert.throws(() => preparePacket(out, true), defect);
    out.codec = 0;
    out.payloadBytes = PAYLOAD_BYTES_MAX + 1;
    assert.throws(() => sendPacket(out), defect);
  });

  it("refuse an announced size that is not that of the pages", () => {
    const [, into] = ends();
    listPages(into, [0]);
    into.payloadBytes = pageBytes + 1;
    assert.throws(() => receivePages(into), { name: "ProtocolError", code: "PAYLOAD_TOO_LONG" });
    into.payloadBytes = pageBytes - 1;
    assert.throws(() => receivePages(into), { name: "ProtocolError", code: "PAYLOAD_TOO_SHORT" });
  });

  it("report a broken channel when the peer has gone", () => {
    const [out] = ends();
    shutdownSocket(theirs);
    listPages(out, [0]);
    preparePacket(out, false);
    assert.throws(() => sendPacket(out), { name: "ChannelError", code: "CHANNEL_BROKEN" });
  });

  it("report a system error when the file takes no write", () => {
    const [, into] = ends();
    const target = { lengthBytes: BigInt(blockBytes), file: theirs, fileOffsetBytes: 0n, address: 0n, fresh: -1 };
    into.placeInto(target, true); // a socket is no file
    listPages(into, [0]);
    into.payloadBytes = pageBytes;
    assert.throws(() => placePages(into), { name: "SystemError", code: "SYSTEM_ESPIPE" });
  });

  it("give up on a silent peer after the time allowed", () => {
    const [, into] = ends();
    setSocketTimeout(theirs, 10);
    assert.throws(() => receiveHeader(into), { name: "ChannelError", code: "CHANNEL_TIMEOUT" });
  });

  it("move a packet larger than the socket's buffer while another thread reads", async () => {
    const [out] = ends();
    const big = makeBlock(512 * 1024);
    const bytes = randomFillSync(new Uint8Array(512 * 1024));
    writeMemory(big.mapping, 0, bytes);
    out.readFromFile(big.fd, 0n, BigInt(bytes.byteLength));
    out.headerBytes = 0;
    const { received } = await receiveInThread(theirs, 4 * bytes.byteLength);
    const pages = Array.from({ length: 128 }, (_, i) => (i * 37) % 128);
    for (let round = 0; round < 4; round++) {
      listPages(out, pages);
      preparePacket(out, true);
      assert.equal(sendPacket(out), bytes.byteLength);
    }
    const wire = await received;
    pages.forEach((page, i) => {
      const at = i * pageBytes;
      assert.deepEqual(
        wire.subarray(at, at + pageBytes),
        bytes.subarray(page * pageBytes, (page + 1) * pageBytes),
        `page ${page}`,
      );
    });
    assert.deepEqual(wire.subarray(0, bytes.byteLength), wire.subarray(3 * bytes.byteLength));
    big.close();
  });
});

describe("packet block", () => {
  it("starts without a socket, a file or a codec, and keeps what is set", () => {
    const packet = new PacketBlock();
    assert.deepEqual([packet.socket, packet.codec, packet.normalPages], [-1, 0, 0]);
    packet.headerView.setUint32(4, 0x01020304);
    assert.deepEqual([...packet.header.subarray(4, 8)], [1, 2, 3, 4]);
    assert.throws(() => clearPages(packet), defect);
  });
});
