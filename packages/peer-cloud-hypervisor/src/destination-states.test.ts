/** Every command in every state of a receiver, as raw bytes, for each era. */
import assert from "node:assert/strict";
import { ERAS, type EraName } from "@multifd/protocol";
import { MAPPINGS, MemoryFile, makeConfig, STATE } from "./fixture.js";
import { DescriptorPeer, slot32 } from "./fixture-descriptors.js";
import { ABANDON, COMPLETE, config, memory, rangeTable, request, START, state } from "./fixture-raw.js";
import { Receiving } from "./fixture-receiving.js";

type State = "established" | "started" | "fds-received" | "configured" | "state-received";
/** A descriptor rides on what follows the header. */
type Message = { readonly wire: Buffer; readonly hasDescriptor?: true };

const CONFIG = config(makeConfig());
const plain = (wire: Buffer): Message => ({ wire });
const memoryFd = (slot: number): Message => ({
  wire: Buffer.concat([request(7, 4), slot32(slot)]),
  hasDescriptor: true,
});

const prefixes: Readonly<Record<State, readonly Message[]>> = {
  established: [],
  started: [plain(START)],
  "fds-received": [plain(START), memoryFd(MAPPINGS[0]!.slot)],
  configured: [plain(START), plain(CONFIG)],
  "state-received": [plain(START), plain(CONFIG), plain(state(STATE))],
};
const commands: Readonly<Record<string, Message>> = {
  invalid: plain(request(0, 0)),
  start: plain(START),
  config: plain(CONFIG),
  state: plain(state(STATE)),
  memory: plain(memory([0, 4096, 1])),
  complete: plain(COMPLETE),
  memoryFd: memoryFd(MAPPINGS[1]!.slot),
  completePaused: plain(request(8, 0)),
  pageFault: plain(Buffer.concat([request(9, 16), rangeTable([0, 4096])])),
  "number 10": plain(request(10, 0)),
  "number 65535": plain(request(65535, 0)),
};
const legal: Readonly<Record<State, readonly string[]>> = {
  established: ["start"],
  started: ["memoryFd", "config"],
  "fds-received": ["memoryFd", "config"],
  configured: ["memory", "state"],
  "state-received": ["complete", "completePaused"],
};

/** Whether a destination of that era takes a command at all. A page fault is the destination's own to send. */
function isKnown(era: EraName, command: string): boolean {
  if (command === "memoryFd") return era !== "v12";
  if (command === "completePaused") return ["v52", "v53", "next"].includes(era);
  return ["start", "config", "state", "memory", "complete"].includes(command);
}

describe("states of a destination, towards raw bytes", () => {
  const receiving = Receiving.inDescribe();
  let file: MemoryFile;
  let peer: DescriptorPeer;
  before(() => {
    file = new MemoryFile(4096);
  });
  after(() => file.close());
  afterEach(() => peer.close());

  function send({ wire, hasDescriptor }: Message): void {
    if (hasDescriptor) peer.sendSlot(wire.subarray(16), [file.descriptor]);
    else peer.write(wire);
  }

  async function reach(era: EraName, name: State) {
    const { outcome } = await receiving.start({ era: ERAS[era] });
    peer = await DescriptorPeer.connect(receiving.socketPath);
    for (const message of prefixes[name]) {
      send(message);
      assert.equal(await peer.status(), 1);
    }
    return { outcome };
  }

  for (const era of Object.keys(ERAS) as EraName[]) {
    for (const name of Object.keys(prefixes) as State[]) {
      if (name === "fds-received" && !isKnown(era, "memoryFd")) continue;
      for (const [command, message] of Object.entries(commands)) {
        if (legal[name].includes(command) && isKnown(era, command)) {
          it(`${era}, ${name}: takes ${command}`, async () => {
            const { outcome } = await reach(era, name);
            send(message);
            assert.equal(await peer.status(), 1);
            if (name === "state-received") {
              assert.equal(await peer.status(), null);
              assert.deepEqual(await outcome, { ok: true, acknowledged: true });
              const how = command === "complete" ? "resume" : "leave-paused";
              assert.equal(receiving.guest.calls.at(-1), `commit ${how}`);
              return;
            }
            peer.write(ABANDON);
            assert.equal(await peer.status(), 1);
            assert.equal(await receiving.refused(outcome), "ABANDONED");
          });
          continue;
        }
        it(`${era}, ${name}: answers ${command} with Error, and Abandon with Ok`, async () => {
          const { outcome } = await reach(era, name);
          send(message);
          assert.equal(await peer.status(), 2);
          // The bytes behind a range table hide what comes next.
          if (command !== "memory") {
            peer.write(ABANDON);
            assert.equal(await peer.status(), 1);
            assert.equal(await peer.status(), null);
          }
          peer.close();
          const due = isKnown(era, command) ? "COMMAND_OUT_OF_ORDER" : "COMMAND_UNKNOWN";
          assert.equal(await receiving.refused(outcome), due);
        });
      }

      it(`${era}, ${name}: takes Abandon for the end`, async () => {
        const { outcome } = await reach(era, name);
        peer.write(ABANDON);
        assert.equal(await peer.status(), 1);
        assert.equal(await peer.status(), null);
        assert.equal(await receiving.refused(outcome), "ABANDONED");
      });
    }
  }
});
