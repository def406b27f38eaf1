/**
 * Entrance: the listener, and whoever has come through it and is nobody's yet.
 *
 * All that have not said what they are, are polled together with the listener, so that none holds up the others.
 * A connection leaves in one of two ways: its first words are handed to the caller's `sort`, who takes it; or it is
 * held: open, unread, until all is closed. Held are connections that we have no use for, yet must not hang up on,
 * for QEMU 7.2 does not survive a connection that breaks while it opens others (`settle`).
 *
 * Owns the listener, the TLS thread's intake, and every connection that is not taken.
 * Runs on the coordinator thread.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { type Address, type Channel, Listener, type TlsListenTerms, TlsPump } from "@multifd/channel";
import { pollReadable } from "@multifd/native";
import { type FirstWords, firstWords } from "./first-words.js";

/** Called once a connection has said enough, or ended: it is the callee's then. If that throws, it is held. */
export type Sort = (connection: Channel, words: FirstWords) => Promise<void> | void;

/**
 * As many as one QEMU opens, main channel and 255 others: so many may wait to be let in, and so many may be in
 * without being anybody's. A queue that overflows would let a source believe in connections that are none.
 */
const CONNECTIONS_MAX = 256;
/** One poll lasts no longer than this, so that giving up is noticed. */
const POLL_MS = 100;
/** Between looks at a connection that has sent part of what is due: it is readable all the time. */
const PARTIAL_MS = 5;
/** So long nobody may have come or spoken before a source is taken to have opened all that it wants to. */
const QUIET_MS = 250;
/** A connection younger than this is about to speak. */
const YOUNG_MS = 2000;
const SETTLE_MAX_MS = 3000;
/** A TLS handshake has no clock of its own: the caller's covers it. */
const WATCHED_HERE = 0;

export class Entrance {
  readonly #listener: Listener;
  readonly #tls: TlsPump | null;
  /** Who has not said what it is, and when it came. */
  readonly #unknown = new Map<Channel, number>();
  readonly #held: Channel[] = [];
  #open = true;
  /** How often we have closed what a poll may be looking at. */
  #closings = 0;

  private constructor(listener: Listener, tls: TlsListenTerms | undefined) {
    this.#listener = listener;
    this.#tls = tls ? new TlsPump(tls) : null;
  }

  /** @throws {SystemError} when the address cannot be listened on. */
  static async listen(address: Address, tls?: TlsListenTerms): Promise<Entrance> {
    return new Entrance(await Listener.listen(address, CONNECTIONS_MAX), tls);
  }

  get address(): Address {
    return this.#listener.address;
  }

  /** Whether anybody may still come. */
  get open(): boolean {
    return this.#open;
  }

  get unknown(): readonly Channel[] {
    return [...this.#unknown.keys()];
  }

  /** Whether anybody is here who has not been taken. */
  get occupied(): boolean {
    return this.#unknown.size + this.#held.length > 0;
  }

  /** Waits up to `pollMs` for somebody to come or to speak. @returns whether anybody did. @throws what `sort` throws. */
  async step(sort: Sort, pollMs = POLL_MS): Promise<boolean> {
    const asked = this.unknown;
    const descriptors = asked.map((connection) => connection.descriptor);
    if (this.#hasRoom()) descriptors.push(this.#listener.descriptor);
    const ready = await this.#poll(descriptors, pollMs);
    if (ready === null) return false;
    let moved = false;
    let undecided = false;
    for (const [index, connection] of asked.entries()) {
      if (!ready[index] || !this.#unknown.has(connection)) continue;
      const words = firstWords(connection);
      if (words.kind === "too-few") {
        undecided = true;
      } else {
        moved = true;
        this.#unknown.delete(connection);
        await this.#give(connection, words, sort);
      }
    }
    if (ready[asked.length] && this.#letIn()) moved = true;
    if (undecided) await sleep(PARTIAL_MS);
    return moved;
  }

  /** @returns null when one of them may have been closed meanwhile: what the poll says is of somebody else's file, then. */
  async #poll(descriptors: readonly number[], pollMs: number): Promise<readonly boolean[] | null> {
    const closings = this.#closings;
    try {
      const ready = await pollReadable(descriptors, pollMs);
      return closings === this.#closings ? ready : null;
    } catch (error) {
      if (closings === this.#closings) throw error;
      return null;
    }
  }

  async #give(connection: Channel, words: FirstWords, sort: Sort): Promise<void> {
    try {
      await sort(connection, words);
    } catch (error) {
      this.hold(connection);
      throw error;
    }
  }

  /** Keeps a connection open, unread, until `close`. */
  hold(connection: Channel): void {
    this.#held.push(connection);
  }

  /** Hangs up on whoever has been here for `timeoutMs` and has not said what it is. */
  expire(timeoutMs: number): void {
    const latest = performance.now() - timeoutMs;
    for (const [connection, came] of this.#unknown) {
      if (came > latest) continue;
      this.#closings++;
      this.#unknown.delete(connection);
      connection.close();
    }
  }

  /**
   * Holds whoever has come, and lets in and holds who is still coming, until the source has opened all that it wants to.
   *
   * QEMU 7.2 dies (assertion in its yank.c, or a segmentation fault), or can never migrate again, when its main
   * channel is closed while it still opens others: one refusal in three when refused at once. Its part in a connection
   * is done when the init message has left, so that is waited for, not the connection alone.
   */
  async settle(): Promise<void> {
    const began = performance.now();
    let moved = began;
    for (let now = began; this.#open && now - began < SETTLE_MAX_MS; now = performance.now()) {
      const speaking = [...this.#unknown.values()].some((came) => now - came < YOUNG_MS);
      if (now - moved >= QUIET_MS && !speaking) return;
      if (await this.step((connection) => this.hold(connection))) moved = performance.now();
    }
  }

  /** Lets in who is waiting, and nobody after them. Those that are in stay. Idempotent. */
  shut(): void {
    this.#letIn();
    this.#shut();
  }

  /** Hangs up on everybody who has not been taken. Idempotent. */
  close(): void {
    this.#shut();
    for (const connection of [...this.unknown, ...this.#held.splice(0)]) connection.close();
    this.#unknown.clear();
  }

  #shut(): void {
    this.#closings++;
    this.#open = false;
    this.#listener.close();
    this.#tls?.end();
  }

  #hasRoom(): boolean {
    return this.#open && this.#unknown.size + this.#held.length < CONNECTIONS_MAX;
  }

  /** @returns whether anybody was. */
  #letIn(): boolean {
    let came = false;
    while (this.#hasRoom()) {
      const next = this.#listener.accept();
      if (next === null) break;
      this.#unknown.set(this.#tls?.secure(next, WATCHED_HERE) ?? next, performance.now());
      came = true;
    }
    return came;
  }
}
