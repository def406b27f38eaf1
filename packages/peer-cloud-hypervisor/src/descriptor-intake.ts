/**
 * Descriptor intake: guest RAM handed over as files, one MemoryFd at a time.
 *
 * A descriptor rides on the bytes of its slot's number; reading those with anything
 * but recvmsg would lose it. They come before the configuration that tells what
 * they are, so they wait here, and are the guest's once they have been matched.
 *
 * Owns the descriptors until then.
 * Source: Cloud Hypervisor 21.0 to 53.0, vmm/src/lib.rs, vm_send_memory_fds() and its receiver.
 */
import { fstatSync } from "node:fs";
import type { RangeThread } from "@multifd/engine";
import { closeDescriptor } from "@multifd/native";
import { ChannelError, MEMORY_FD_BYTES, MEMORY_FD_TEXT_BYTES, ProtocolError } from "@multifd/protocol";
import type { AdoptedRam } from "./destination-job.js";
import type { MemoryMap } from "./memory-map.js";

/** One more than is due, so that a surplus is seen. */
const DESCRIPTORS_MAX = 2;
/** Slots that a source may fill; KVM has 32 764, real machines use dozens. */
const SLOTS_MAX = 512;

export class DescriptorIntake {
  /** Whether they are also taken behind Config, and with 16-bit slots. */
  readonly #lenient: boolean;
  readonly #bySlot = new Map<number, number>();

  constructor(lenient: boolean) {
    this.#lenient = lenient;
  }

  get mayFollowConfig(): boolean {
    return this.#lenient;
  }

  get count(): number {
    return this.#bySlot.size;
  }

  /** @throws {ProtocolError} MEMORY_FD_LENGTH. */
  checkLength(payloadBytes: number): void {
    if (payloadBytes === MEMORY_FD_BYTES || (this.#lenient && payloadBytes === MEMORY_FD_TEXT_BYTES)) return;
    throw new ProtocolError(
      "MEMORY_FD_LENGTH",
      `memoryFd announces ${payloadBytes} bytes, ${MEMORY_FD_BYTES} were due`,
    );
  }

  /** Takes the payload of one MemoryFd. @throws {ProtocolError} MEMORY_FD_COUNT, MEMORY_FD_SLOT. */
  async take(thread: RangeThread, payloadBytes: number): Promise<void> {
    const { bytes, descriptors } = await thread.receiveDescriptors(payloadBytes, DESCRIPTORS_MAX);
    try {
      if (bytes.length < payloadBytes) throw new ChannelError("CHANNEL_CUT", `${thread.name}: cut inside memoryFd`);
      if (descriptors.length !== 1)
        throw new ProtocolError("MEMORY_FD_COUNT", `memoryFd bears ${descriptors.length} descriptors, one was due`);
      const view = new DataView(bytes.buffer, bytes.byteOffset);
      this.#keep(payloadBytes === MEMORY_FD_BYTES ? view.getUint32(0, true) : view.getUint16(0, true), descriptors[0]!);
    } catch (error) {
      for (const descriptor of descriptors) closeDescriptor(descriptor);
      throw error;
    }
  }

  #keep(slot: number, descriptor: number): void {
    if (this.#bySlot.has(slot)) throw new ProtocolError("MEMORY_FD_SLOT", `slot ${slot} came twice`);
    if (this.#bySlot.size === SLOTS_MAX) throw new ProtocolError("MEMORY_FD_SLOT", `more than ${SLOTS_MAX} slots came`);
    this.#bySlot.set(slot, descriptor);
  }

  /**
   * Gives each block its descriptor away.
   *
   * @throws {ProtocolError} MEMORY_FD_SLOT, where slots and configuration disagree; MEMORY_FD_SIZE, where a file is too
   *   short.
   */
  match(map: MemoryMap): readonly AdoptedRam[] {
    const matched = map.blocks.map(({ block, slot, fileOffsetBytes }): AdoptedRam => {
      const descriptor = slot === null ? undefined : this.#bySlot.get(slot);
      if (descriptor === undefined)
        throw new ProtocolError(
          "MEMORY_FD_SLOT",
          `RAM block "${block.name}" is in slot ${slot}, whose descriptor did not come`,
        );
      const { size } = fstatSync(descriptor);
      if (size < fileOffsetBytes + block.lengthBytes)
        throw new ProtocolError(
          "MEMORY_FD_SIZE",
          `RAM block "${block.name}": the file of slot ${slot} has ${size} bytes, the block ends at ${fileOffsetBytes + block.lengthBytes}`,
        );
      return { block, slot: slot!, descriptor, offsetBytes: fileOffsetBytes };
    });
    const slots = new Set(matched.map(({ slot }) => slot));
    const foreign = [...this.#bySlot.keys()].find((slot) => !slots.has(slot));
    if (foreign !== undefined || slots.size < matched.length)
      throw new ProtocolError("MEMORY_FD_SLOT", `the slots that came are not those of the configuration, one each`);
    this.#bySlot.clear();
    return matched;
  }

  close(): void {
    for (const descriptor of this.#bySlot.values()) closeDescriptor(descriptor);
    this.#bySlot.clear();
  }
}
