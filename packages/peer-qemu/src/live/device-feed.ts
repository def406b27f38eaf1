/**
 * Device feed: has a QEMU that waits load a device stream while it comes.
 *
 * QEMU is told to listen, and not to run what it has loaded, when the first piece is there. Each piece is checked, and
 * goes into it as soon as the next is asked for. Devices wait until all of the guest's RAM is there: QEMU
 * reads the rings of virtio devices in RAM as it loads them, and one that it read too early never answers the guest again.
 * QEMU has loaded everything when it has said so on its return path, left its state of waiting and ended its migration.
 *
 *   source ── piece ──▶ check ──▶ QEMU           QEMU ── SHUT, MIGRATION completed ──▶ loaded
 *                         └ devices: held back until `loaded` ──▶ QEMU
 *
 * Owns the connection to QEMU.
 */
import { type Address, Channel, formatAddress, MainChannel } from "@multifd/channel";
import { ChannelError, ChunkSource, decodeReturnPath, MigrationError, ProtocolError } from "@multifd/protocol";
import { isOver } from "../drive/migration-info.js";
import { type QemuFacts, queryMigration, queryRunState } from "../drive/qemu-facts.js";
import type { QmpClient } from "../qmp-client.js";
import { DEVICE_STREAM_BYTES_MAX, readDeviceStream, type StreamTerms } from "./device-stream.js";

/** Loading, from QEMU's last byte to its word; shorter than the source waits for ours. */
const LOAD_MS = 20_000;
const CONNECT_MS = 5000;
/** Between two looks, if no event says that there is something to see. */
const LOOK_MS = 100;

export class DeviceFeed {
  readonly #qmp: QmpClient;
  readonly #terms: StreamTerms;
  readonly #main: MainChannel;
  /** QEMU's word: false where it says that it failed. */
  readonly #word: Promise<boolean>;
  /** Devices, which wait for the guest's RAM; null until they come. */
  #held: Uint8Array[] | null = null;

  private constructor(qmp: QmpClient, terms: StreamTerms, main: MainChannel) {
    this.#qmp = qmp;
    this.#terms = terms;
    this.#main = main;
    this.#word = hearShut(main);
    this.#word.catch(() => this.close()); // told to whoever waits for it
  }

  /**
   * Has QEMU listen, and connects; from then on it is spent.
   *
   * @param meeting  A socket that QEMU can make.
   * @throws {MigrationError} QEMU's own reason, where it has one.
   */
  static async open(qmp: QmpClient, facts: QemuFacts, meeting: Address, terms: StreamTerms): Promise<DeviceFeed> {
    try {
      await Promise.all([
        qmp.execute("stop"), // what QEMU takes for -S: it does not run what it has loaded
        qmp.execute("migrate-incoming", {
          uri: formatAddress(meeting),
          ...(staysAfterFailure(facts) ? { "exit-on-error": false } : {}),
        }),
      ]);
      return new DeviceFeed(qmp, terms, new MainChannel(await Channel.connect(meeting, CONNECT_MS)));
    } catch (error) {
      throw await explain(qmp, error);
    }
  }

  /**
   * Feeds a stream up to its devices, and takes those in for `loaded`.
   *
   * @throws {ProtocolError} QEMU_MIGRATION_FAILED, with QEMU's reason; what is wrong with the stream. @throws what `state` throws.
   */
  async take(state: AsyncIterable<Uint8Array>): Promise<void> {
    try {
      const failing = this.#word.then((taken) => {
        if (!taken) throw notLoaded();
      });
      const fed = this.#feed(state);
      fed.catch(() => {}); // if QEMU failed before, that is the reason
      await Promise.race([fed, failing.then(() => fed)]);
      failing.then(
        () => this.close(), // both have had their say
        () => {}, // told by `loaded`
      );
    } catch (error) {
      this.close();
      throw await explain(this.#qmp, error);
    }
  }

  async #feed(state: AsyncIterable<Uint8Array>): Promise<void> {
    const pieces = this.#passOn(state);
    const source = new ChunkSource(pieces);
    const holdBack = () => {
      this.#held ??= [];
    };
    await readDeviceStream(source, this.#terms, async () => {}, holdBack);
    const { done, value } = await pieces.next();
    const left = source.available + (done ? 0 : value.length);
    if (left === 0) return;
    throw new ProtocolError(
      "DEVICE_STREAM",
      `at least ${left} bytes follow the end of the device stream; the source is broken or hostile`,
    );
  }

  async *#passOn(state: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array, void> {
    let bytes = 0;
    for await (const piece of state) {
      bytes += piece.length;
      if (bytes > DEVICE_STREAM_BYTES_MAX) {
        throw new ProtocolError("DEVICE_STREAM", `more than ${DEVICE_STREAM_BYTES_MAX} bytes of devices came`);
      }
      yield piece;
      // The reader has taken all of it: up to here there was nothing but RAM, unless it has said otherwise.
      if (this.#held === null) await this.#main.write(piece);
      else this.#held.push(piece);
    }
  }

  /**
   * Has QEMU load the devices, now that RAM is complete, and waits until it has loaded everything and stands still.
   *
   * @throws {ProtocolError} QEMU_MIGRATION_FAILED, with QEMU's reason; {ChannelError} QEMU_SILENT, QMP_CLOSED.
   */
  async loaded(): Promise<void> {
    const timer = setTimeout(() => this.close(), LOAD_MS);
    try {
      for (const piece of this.#held ?? []) await this.#main.write(piece);
      if (!(await this.#word)) throw notLoaded();
      await this.#ended();
    } catch (error) {
      throw await explain(this.#qmp, error);
    } finally {
      clearTimeout(timer);
      this.close();
    }
  }

  /** QEMU says that it has the guest before it has left its state of waiting. */
  async #ended(): Promise<void> {
    const qmp = this.#qmp;
    for (const deadline = performance.now() + LOAD_MS; ; ) {
      await newsOrTime(qmp);
      const [info, runState] = await Promise.all([queryMigration(qmp), queryRunState(qmp)]);
      if (info.status === "completed" && runState !== "inmigrate") return;
      if (isOver(info) && info.status !== "completed") {
        throw new ProtocolError(
          "QEMU_MIGRATION_FAILED",
          `QEMU: ${info.error ?? "it failed, and its own log says why"}`,
        );
      }
      if (performance.now() > deadline) {
        throw new ChannelError(
          "QEMU_SILENT",
          `QEMU has taken everything in, but its migration is "${info.status}" and its run state "${runState}" ${LOAD_MS} ms later; look at its monitor`,
        );
      }
    }
  }

  close(): void {
    this.#main.destroy();
  }
}

/** Waits for the event of a migration that has ended, for a while. */
async function newsOrTime(qmp: QmpClient): Promise<void> {
  const isEnd = ({ status }: Readonly<Record<string, unknown>>) => status === "completed" || status === "failed";
  try {
    await qmp.waitForEvent("MIGRATION", isEnd, LOOK_MS);
  } catch (error) {
    if (!(error instanceof ChannelError) || error.code !== "QMP_TIMEOUT") throw error;
  }
}

/** Whether QEMU can be told not to exit on a failed incoming migration. */
function staysAfterFailure({ release }: QemuFacts): boolean {
  return release.major > 9 || (release.major === 9 && release.minor >= 1);
}

function notLoaded(): ProtocolError {
  return new ProtocolError("QEMU_MIGRATION_FAILED", "QEMU reports that it could not load its devices");
}

/** @returns false where QEMU says that it failed. @throws {ChannelError} where it says nothing. */
async function hearShut(main: MainChannel): Promise<boolean> {
  for await (const message of decodeReturnPath(main.source)) {
    if (message.kind === "shut") return message.status === 0;
  }
  throw new ChannelError("CHANNEL_BROKEN", "QEMU closed its incoming migration without a word");
}

/** Puts QEMU's own reason, where it still tells one, in the place of the broken link that we saw. */
async function explain(qmp: QmpClient, error: unknown): Promise<unknown> {
  if (!(error instanceof MigrationError)) return error;
  try {
    const info = await queryMigration(qmp);
    if (info.status !== "failed") return error;
    const words = info.error ?? "it could not load its devices; its own log (stderr) says why";
    return new ProtocolError("QEMU_MIGRATION_FAILED", `QEMU: ${words}`, { cause: error });
  } catch {
    return new ProtocolError(
      "QEMU_ENDED",
      `QEMU ended while it loaded the guest (${error.message}); its own log (stderr) says why`,
      { cause: error },
    );
  }
}
