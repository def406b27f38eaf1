/**
 * Device capture: has a QEMU stop its guest and give us all of it but the shared RAM.
 *
 * QEMU migrates to a socket of ours, with x-ignore-shared: it stops the guest by itself, drains what its devices
 * have under way, and sends some hundred kilobytes. Its return path stays open, and until we say on it that the guest
 * has arrived, QEMU holds the guest ready to go on: it resumes it when it is told to cancel, and just as well when
 * this process dies and the socket closes. Saying so is one write of twelve bytes, and final.
 *
 *   idle ── stop ──▶ stopped, stream under way ── release ──▶ released
 *     └── stopSoon: held ──▶ pages pass ──┘
 *               └── resume: cancel ──▶ the guest goes on ◀── resume: cont ──┘
 *
 * A guest that runs need not wait for all of that: QEMU is first held to a pace at which it connects,
 * sets up and then as good as waits, and let go when that is done. It then sends the RAM that it shares with nobody while
 * the guest still runs, and only its devices when it has stopped it. QEMU looks up every 100 ms, so the stop comes
 * within that time.
 *
 * Owns the socket; QEMU's migration settings are the caller's.
 */
import { setTimeout as sleep } from "node:timers/promises";
import type { Address } from "@multifd/channel";
import { formatAddress, MainChannel } from "@multifd/channel";
import { ChannelError, encodePong, encodeShut, MigrationError, ProtocolError, TappedSource } from "@multifd/protocol";
import { isOver, type MigrationInfo } from "../drive/migration-info.js";
import {
  BANDWIDTH_UNLIMITED,
  type MigrationSettings,
  multifdSettings,
  type SettingsWanted,
} from "../drive/migration-settings.js";
import { OutgoingMigration } from "../drive/outgoing-migration.js";
import { queryMigration, queryRunState } from "../drive/qemu-facts.js";
import type { QmpClient } from "../qmp-client.js";
import { Reception } from "../reception.js";
import { DEVICE_STREAM_BYTES_MAX, readDeviceStream, type StreamTerms } from "./device-stream.js";

/** From the command to the last byte of the devices. A guest's drives have to finish what is under way. */
const CAPTURE_MS = 30_000;
/** Source: QEMU 11.1, migration/options.h, MAX_MIGRATE_DOWNTIME. */
const DOWNTIME_MS_MAX = 2_000_000;
/** Bytes a second: a page or two in each 100 ms. No limit at all would be what less than 10 is taken for. */
const HELD_BANDWIDTH = 1000;
/** From letting QEMU go to its stop, where it has to try for less; then it stops with what is left. */
const HURRY_MS = 1000;

/** What a QEMU has to be set to before it is captured: one connection, no limit, no waiting, shared RAM left out. */
export function captureSettings(): SettingsWanted {
  const { capabilities, parameters } = multifdSettings({ channels: 1, compression: "none", level: 0 }, 0);
  return {
    capabilities: { ...capabilities, multifd: false, "x-ignore-shared": true },
    parameters: { "max-bandwidth": parameters["max-bandwidth"], "downtime-limit": DOWNTIME_MS_MAX },
  };
}

export class DeviceCapture {
  readonly #qmp: QmpClient;
  readonly #reception: Reception;
  readonly #terms: StreamTerms;
  readonly #migration: OutgoingMigration;
  readonly #ranBefore: boolean;
  #main: MainChannel | null = null;
  readonly #pieces: Uint8Array[] = [];
  /** Set by `#begin`: settles when all of the stream is in `#pieces`, or will not be. */
  #taken: Promise<void> | null = null;
  readonly #begun = new Latch();
  /** QEMU's first word, behind which comes its RAM. */
  readonly #greeted = new Latch();
  /** Rung when a piece comes. */
  #news = new Latch();
  #state: "idle" | "begun" | "released" = "idle";

  private constructor(qmp: QmpClient, reception: Reception, terms: StreamTerms, ranBefore: boolean) {
    this.#qmp = qmp;
    this.#reception = reception;
    this.#terms = terms;
    this.#ranBefore = ranBefore;
    this.#migration = new OutgoingMigration(qmp, () => {});
  }

  /** @param address  A socket that QEMU can reach. */
  static async listen(
    qmp: QmpClient,
    address: Address,
    terms: StreamTerms,
    ranBefore: boolean,
  ): Promise<DeviceCapture> {
    const reception = await Reception.listen(address, { channels: 0, handshakeTimeoutMs: CAPTURE_MS });
    return new DeviceCapture(qmp, reception, terms, ranBefore);
  }

  /**
   * Stops the guest, unless `stopSoon` has. When this resolves no vCPU runs; what devices have under way may still write, until `stream` resolves.
   *
   * @throws {MigrationError} QEMU's own reason, where it has one; the guest may stand still, and `resume` is due.
   */
  async stop(): Promise<void> {
    if (this.#state === "idle") await this.#stopped(this.#begin());
  }

  /**
   * The same for a guest that runs on meanwhile, which makes it stand still for less. @param settings  Where
   * QEMU's pace is set, and given back.
   */
  async stopSoon(settings: MigrationSettings): Promise<void> {
    await settings.setParameter("max-bandwidth", HELD_BANDWIDTH);
    // As long as nothing may be left over for the stop, QEMU tries to send everything before it.
    await settings.setParameter("downtime-limit", 0);
    const taken = this.#begin();
    const stopped = this.#stopped(taken);
    await Promise.race([this.#greeted.opened, stopped]);
    await settings.setParameter("max-bandwidth", BANDWIDTH_UNLIMITED);
    if (!(await settlesWithin(stopped, HURRY_MS))) await settings.setParameter("downtime-limit", DOWNTIME_MS_MAX);
    await stopped;
  }

  #begin(): Promise<void> {
    this.#taken = this.#capture();
    this.#begun.open();
    this.#taken.catch(() => {}); // told to whoever waits for the stop, or reads
    return this.#taken;
  }

  async #stopped(taken: Promise<void>): Promise<void> {
    if (!this.#ranBefore) return taken;
    const stopped = this.#qmp.waitForEvent("STOP", () => true, CAPTURE_MS);
    stopped.catch(() => {}); // if the stream ends otherwise, that is the reason
    await Promise.race([taken, stopped]);
  }

  /** The device stream as it comes, whole when this ends; from when a stop begins. @throws {MigrationError} as `stop`. */
  async *pieces(): AsyncGenerator<Uint8Array> {
    await this.#begun.opened;
    for (let at = 0; ; ) {
      const news = this.#news.opened;
      while (at < this.#pieces.length) yield this.#pieces[at++]!;
      const isWhole = await Promise.race([this.#taken!.then(() => true), news.then(() => false)]);
      if (isWhole && at === this.#pieces.length) return;
    }
  }

  /** All of the device stream, once a stop has begun. @throws {MigrationError} as `stop`. */
  async stream(): Promise<Uint8Array> {
    await this.#taken;
    return Buffer.concat(this.#pieces);
  }

  async #capture(): Promise<void> {
    const giveUp = new AbortController();
    const timer = setTimeout(() => giveUp.abort(), CAPTURE_MS);
    this.#state = "begun";
    try {
      // QEMU may answer only when it has stopped: both go on at once.
      await Promise.all([this.#start(giveUp), this.#take(giveUp.signal)]);
    } catch (error) {
      throw await this.#explain(error, giveUp.signal.aborted);
    } finally {
      clearTimeout(timer);
    }
  }

  async #start(giveUp: AbortController): Promise<void> {
    try {
      await this.#migration.start(formatAddress(this.#reception.address));
    } catch (error) {
      giveUp.abort(); // nobody will come
      throw error;
    }
  }

  async #take(signal: AbortSignal): Promise<void> {
    const { main } = await this.#reception.accept(signal);
    const channel = new MainChannel(main);
    this.#main = channel;
    const close = () => channel.destroy();
    signal.addEventListener("abort", close);
    let bytes = 0;
    const tap = new TappedSource(channel.source, async (part) => {
      bytes += part.length;
      if (bytes > DEVICE_STREAM_BYTES_MAX) throw tooLarge();
      this.#pieces.push(Uint8Array.from(part));
      this.#news.open();
      this.#news = new Latch();
    });
    try {
      await readDeviceStream(tap, this.#terms, async (value) => {
        await channel.write(encodePong(value));
        this.#greeted.open();
      });
      await tap.handOn(0);
    } finally {
      signal.removeEventListener("abort", close);
    }
  }

  /** Puts QEMU's reason in the place of a broken link. */
  async #explain(error: unknown, tooLate: boolean): Promise<unknown> {
    const refused = error instanceof MigrationError && error.code === "QMP_COMMAND_FAILED";
    if (refused || !(error instanceof ChannelError) || error.code.startsWith("QMP_")) return error;
    const info = await this.#query();
    if (info?.status === "failed") {
      return new ProtocolError(
        "QEMU_MIGRATION_FAILED",
        `QEMU: ${info.error ?? "it failed to save its devices; its own log (stderr) says why"}`,
      );
    }
    if (!tooLate) return error;
    const message = `QEMU has not stopped its guest and saved its devices within ${CAPTURE_MS} ms (status "${info?.status ?? "unknown"}")`;
    return new ChannelError("QEMU_SILENT", message, { cause: error });
  }

  async #query(): Promise<MigrationInfo | null> {
    try {
      return await queryMigration(this.#qmp);
    } catch {
      return null;
    }
  }

  /**
   * Gives the guest up: QEMU will not resume it any more, whatever becomes of us. Synchronous: when this
   * returns the word is in QEMU's socket.
   */
  release(): void {
    this.#state = "released";
    void this.#main?.write(encodeShut(0)).catch(() => {}); // a QEMU that is gone runs nothing
  }

  /** Waits until QEMU has let the guest go. @throws {MigrationError} where it does not say so. */
  async released(): Promise<void> {
    this.#migration.expectEnd();
    await this.#migration.end({ roundsMax: Number.POSITIVE_INFINITY, atRoundLimit: "fail" }, async () => {});
  }

  /**
   * Makes the guest go on, whatever has come before.
   *
   * @throws {MigrationError} where QEMU does not say that it does.
   */
  async resume(): Promise<void> {
    if (this.#state === "released") await this.released();
    if (this.#state === "begun") await this.#cancel();
    this.close();
    if (this.#ranBefore && (await queryRunState(this.#qmp)) !== "running") await this.#qmp.execute("cont");
  }

  /** Told by a command first and by the socket's end only when that is done: see driven-source.ts. */
  async #cancel(): Promise<void> {
    const info = await queryMigration(this.#qmp);
    if (isOver(info) || info.status === "none") return;
    await this.#migration.cancel();
    await this.released();
  }

  close(): void {
    this.#reception.close();
    this.#main?.destroy();
  }
}

/** A door that opens once. */
class Latch {
  open: () => void = () => {};
  readonly opened = new Promise<void>((resolve) => {
    this.open = resolve;
  });
}

/** @returns whether `promise` settled in that time. @throws what it rejects with. */
async function settlesWithin(promise: Promise<void>, timeoutMs: number): Promise<boolean> {
  const timer = new AbortController();
  const late = sleep(timeoutMs, false, { signal: timer.signal });
  late.catch(() => {}); // ended below
  try {
    return await Promise.race([promise.then(() => true), late]);
  } finally {
    timer.abort();
  }
}

function tooLarge(): ProtocolError {
  return new ProtocolError(
    "DEVICE_STREAM",
    `QEMU sends more than ${DEVICE_STREAM_BYTES_MAX} bytes beside its shared RAM; see with "info ramblock" what that is`,
  );
}
