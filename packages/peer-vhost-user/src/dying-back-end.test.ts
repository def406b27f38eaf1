/**
 * A back-end that dies: at each request of a device's whole life, before it is read and after, with one error each.
 *
 * One of our own serves; between the two sits a relay that closes when the number of the request has come.
 */

import assert from "node:assert/strict";
import { describeRamBlock } from "@multifd/memory";
import { closeDescriptor, socketPair } from "@multifd/native";
import { filesLeftOpen, type OpenFiles, openFiles } from "@multifd/native/fixture-open-files";
import { MigrationError } from "@multifd/protocol";
import { AttachedDevice } from "./attached-device.js";
import { attachFrontEnd, FixtureGuest, RAM_BYTES, serveDevice } from "./fixture.js";
import type { FrontEnd } from "./front-end.js";
import { LogTracker } from "./log-tracker.js";
import { MessageSocket } from "./message-socket.js";
import { encodeVhostUserMessage, type RequestShape, vhostUserRequests } from "./messages.js";
import { RngDevice } from "./rng-device.js";
import { loadState, saveState } from "./state-transfer.js";

type Death = { readonly atRequest: number; readonly when: "unread" | "unanswered" };

const shapes = new Map<number, RequestShape>(Object.values(vhostUserRequests).map((shape) => [shape.id, shape]));

/** A back-end behind a relay. @returns our end of the connection, and how many requests it has passed on. */
function mortalBackEnd(death: Death) {
  const served = serveDevice(new RngDevice());
  const [ours, theirs] = socketPair();
  const front = new MessageSocket(theirs, "front-end");
  const back = new MessageSocket(served.socket, "back-end");
  let requests = 0;
  const relaying = (async () => {
    for (;;) {
      const request = await front.receive(Number.POSITIVE_INFINITY, "relaying");
      if (request === null) return;
      const { id, needsReply, payload, descriptors } = request;
      const isLast = ++requests === death.atRequest;
      if (!(isLast && death.when === "unread")) {
        back.send(encodeVhostUserMessage(id, needsReply ? "acknowledged-request" : "request", payload), descriptors);
      }
      for (const descriptor of descriptors) closeDescriptor(descriptor);
      if (isLast) return;
      if (!needsReply && shapes.get(id)!.reply === null) continue;
      const reply = await back.receive(Number.POSITIVE_INFINITY, "relaying");
      if (reply === null) return;
      front.send(encodeVhostUserMessage(id, "reply", reply.payload), reply.descriptors);
      for (const descriptor of reply.descriptors) closeDescriptor(descriptor);
    }
  })().finally(() => {
    front.close();
    back.close();
  });
  return { socket: ours, passed: () => requests, ended: Promise.all([relaying, served.ended]) };
}

/** Everything that a migration asks of a back-end, failed and resumed; and a request at the end that needs it alive. */
async function live(socket: number, guest: FixtureGuest): Promise<void> {
  let frontEnd: FrontEnd | null = null;
  let tracker: LogTracker | null = null;
  try {
    frontEnd = await attachFrontEnd(socket);
    const side = { features: 1n << 32n, memory: guest.regions, rings: [guest.ring], events: [guest.events] };
    const device = new AttachedDevice(frontEnd, side);
    await device.start();
    const { guestAddress, lengthBytes } = guest.regions[0]!;
    tracker = new LogTracker([device], [{ block: 0, offsetBytes: 0, guestAddress, lengthBytes }]);
    await tracker.start([describeRamBlock("ram", RAM_BYTES, 4096)!]);
    await device.suspend();
    const state: Uint8Array[] = [];
    for await (const piece of saveState(frontEnd)) state.push(piece);
    await loadState(frontEnd, state);
    await device.resume();
    await tracker.stop();
    await device.suspend();
  } finally {
    await tracker?.stop();
    frontEnd?.close();
  }
}

describe("a back-end that dies", function () {
  this.timeout(60_000);
  let guest: FixtureGuest;
  let openBefore: OpenFiles;
  let requests: number;
  /** Also opens what a process opens once, and keeps. */
  before(async () => {
    guest = new FixtureGuest();
    const healthy = mortalBackEnd({ atRequest: Number.POSITIVE_INFINITY, when: "unread" });
    await live(healthy.socket, guest);
    await healthy.ended;
    requests = healthy.passed();
    assert.ok(requests > 25, `${requests} requests`);
    guest.close();
  });
  beforeEach(() => {
    openBefore = openFiles();
    guest = new FixtureGuest();
  });
  afterEach(async () => {
    guest.close();
    assert.deepEqual(await filesLeftOpen(openBefore), [], "no descriptor is left");
  });

  for (const when of ["unread", "unanswered"] as const) {
    it(`with each of its requests ${when} is one error, and leaves no descriptor`, async () => {
      for (let atRequest = 1; atRequest <= requests; atRequest++) {
        const mortal = mortalBackEnd({ atRequest, when });
        await assert.rejects(live(mortal.socket, guest), (error: unknown) => {
          assert.ok(error instanceof MigrationError, `request ${atRequest}: ${error}`);
          assert.match(error.code, /^(VHOST_CLOSED|CHANNEL_BROKEN)$/, `request ${atRequest}: ${error.message}`);
          return true;
        });
        await mortal.ended;
        assert.equal(mortal.passed(), atRequest);
      }
    });
  }
});
