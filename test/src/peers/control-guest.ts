/**
 * Control guest: a guest process with vhost-user devices, behind the control socket that `multifd migrate` speaks to.
 *
 * It lives in the test's own process. Its RAM is a file, mapped and registered for write tracking here; what its
 * processor does, and what it remembers beside RAM, is the test's (`ControlledLife`). Commands: native/guest/control.c,
 * and `adopt` of packages/cli/src/vhost-user/guest-devices.ts.
 */
import { type Channel, Listener } from "@multifd/channel";
import {
  closeDescriptor,
  mapFile,
  pollReadable,
  receiveDescriptors,
  sendBytes,
  sendDescriptors,
  trackRegister,
  unmap,
} from "@multifd/native";
import { type DriverQueue, GuestMemory, type RamRun } from "./virtio-guest.js";

const POLL_MS = 50;
const INPUT_BYTES_MAX = 65_536;

/** What runs in it. */
export type ControlledLife = {
  readonly pause: () => Promise<void>;
  readonly resume: () => void;
  readonly save: () => Buffer;
  readonly load: (state: Buffer) => void;
};

export class ControlGuest {
  readonly memory: GuestMemory;
  readonly address: string;
  /** Commands that came, by their first word. */
  readonly commands: string[] = [];
  life: ControlledLife | null = null;
  readonly #queues: readonly DriverQueue[];
  readonly #listener: Listener;
  readonly #tracker: number;
  readonly #more: object;
  #connection: { readonly offered: string; readonly protocolFeatures: string; readonly descriptor: number } | null =
    null;
  #isClosing = false;
  readonly #serving: Promise<void>;

  private constructor(listener: Listener, memory: GuestMemory, queues: readonly DriverQueue[], more: object) {
    this.#listener = listener;
    this.memory = memory;
    this.#queues = queues;
    this.#more = more;
    this.address = `unix:${listener.address.kind === "unix" ? listener.address.path : ""}`;
    memory.mapping = mapFile(memory.descriptor, { lengthBytes: memory.lengthBytes, writable: true });
    this.#tracker = trackRegister(memory.mapping);
    this.#serving = this.#serve();
  }

  /**
   * @param queuesOf  The driver's side of the rings of its one device, "files".
   * @param more      What it tells of that beside.
   */
  static async start(
    path: string,
    runs: readonly RamRun[],
    queuesOf: (memory: GuestMemory) => readonly DriverQueue[],
    more: { readonly mac?: string } = {},
  ): Promise<ControlGuest> {
    const listener = await Listener.listen({ kind: "unix", path }, 4);
    const memory = new GuestMemory(runs);
    return new ControlGuest(listener, memory, queuesOf(memory), more);
  }

  get queues(): readonly DriverQueue[] {
    return this.#queues;
  }

  get hasConnection(): boolean {
    return this.#connection !== null;
  }

  async close(): Promise<void> {
    this.#isClosing = true;
    await this.#serving;
    this.#listener.close();
    if (this.#connection) closeDescriptor(this.#connection.descriptor);
    for (const queue of this.#queues) queue.close();
    closeDescriptor(this.#tracker);
    unmap(this.memory.mapping!);
    this.memory.close();
  }

  async #serve(): Promise<void> {
    while (!this.#isClosing) {
      const [hasGuest] = await pollReadable([this.#listener.descriptor], POLL_MS);
      const channel = hasGuest ? this.#listener.accept() : null;
      if (channel) await this.#serveConnection(channel);
    }
  }

  async #serveConnection(channel: Channel): Promise<void> {
    let input = Buffer.alloc(0);
    const descriptors: number[] = [];
    while (!this.#isClosing) {
      const [isReadable] = await pollReadable([channel.descriptor], POLL_MS);
      if (!isReadable) continue;
      const bytes = Buffer.alloc(INPUT_BYTES_MAX);
      const got = receiveDescriptors(channel.descriptor, bytes, 4);
      if (got.bytes === 0) break;
      descriptors.push(...got.descriptors);
      input = Buffer.concat([input, bytes.subarray(0, got.bytes)]);
      for (let end = input.indexOf(10); end >= 0; end = input.indexOf(10)) {
        const words = input.toString("utf8", 0, end).split(" ");
        const payloadBytes = words[0] === "load" ? Number(words[1]) : 0;
        if (input.length < end + 1 + payloadBytes) break;
        const payload = Buffer.from(input.subarray(end + 1, end + 1 + payloadBytes));
        input = input.subarray(end + 1 + payloadBytes);
        await this.#obey(channel, words, payload, descriptors);
      }
    }
    channel.close();
  }

  async #obey(channel: Channel, words: readonly string[], payload: Buffer, descriptors: number[]): Promise<void> {
    const answer = (fields: object = {}) =>
      sendBytes(channel.descriptor, Buffer.from(`${JSON.stringify({ ok: true, ...fields })}\n`));
    this.commands.push(words[0]!);
    switch (words[0]) {
      case "describe":
        this.#describe(channel);
        return;
      case "adopt":
        this.#connection = { offered: words[2]!, protocolFeatures: words[3]!, descriptor: descriptors.shift()! };
        answer();
        return;
      case "pause":
        await this.life?.pause();
        answer({ pausedAtNs: 1 });
        return;
      case "resume":
        this.life?.resume();
        answer();
        return;
      case "save": {
        const state = this.life!.save();
        answer({ bytes: state.length });
        sendBytes(channel.descriptor, state);
        return;
      }
      case "load":
        try {
          this.life!.load(payload);
          answer();
        } catch (error) {
          answer({ ok: false, error: (error as Error).message });
        }
        return;
      case "run":
        this.life!.resume();
        answer({ downtimeNs: 1 });
        return;
      default:
        sendBytes(channel.descriptor, Buffer.from(`{"ok":false,"error":"no such command"}\n`));
    }
  }

  #describe(channel: Channel): void {
    const { memory } = this;
    const connection = this.#connection;
    const description = {
      ok: true,
      pid: process.pid,
      blocks: [{ name: "ram", bytes: memory.lengthBytes, address: memory.mapping!.address, pageBytes: 4096 }],
      memory: memory.regions.map(({ guestAddress, lengthBytes, offsetBytes }) => ({
        block: 0,
        offset: offsetBytes,
        guestAddress,
        bytes: lengthBytes,
      })),
      devices: [
        {
          name: "files",
          features: "0x100000000",
          ...this.#more,
          connection: connection && { offered: connection.offered, protocolFeatures: connection.protocolFeatures },
          rings: this.#queues.map(({ ring }) => ({ ...ring, base: 0 })),
        },
      ],
      tracking: true,
    };
    const descriptors = [
      memory.descriptor,
      ...this.#queues.flatMap(({ kick, call }) => [kick, call]),
      ...(connection ? [connection.descriptor] : []),
    ];
    sendDescriptors(channel.descriptor, Buffer.from(`${JSON.stringify(description)}\n`), descriptors);
  }
}
