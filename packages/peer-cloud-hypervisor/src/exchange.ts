/**
 * Exchanges: whole messages over a range thread, as both ends need them.
 *
 * A message is taken exactly, never a byte more, for the next bytes may be guest
 * RAM that another call places. Bytes that are missing mean that the peer went
 * away: at the beginning of a message that may be in order, inside it never is.
 */
import type { RangeThread } from "@multifd/engine";
import { sendBytes } from "@multifd/native";
import {
  ChannelError,
  type CommandName,
  encodeRequest,
  encodeResponse,
  type MemoryRangeTable,
  placeError,
  RESPONSE_BYTES,
  takeResponse,
} from "@multifd/protocol";
import type { MemoryMap } from "./memory-map.js";

/**
 * Takes so many bytes.
 *
 * @param what  For messages: `the answer to Config`.
 * @throws {ChannelError} CHANNEL_CUT, where they end before; or why TLS ended.
 */
export async function receiveExact(thread: RangeThread, bytes: number, what: string): Promise<Uint8Array<ArrayBuffer>> {
  const came = await receiveOrEnd(thread, bytes, what);
  if (came !== null) return came;
  throw (
    (await thread.reasonOfEnd()) ??
    new ChannelError("CHANNEL_CUT", `${thread.name}: the peer closed where ${what} was due; its own log says why`)
  );
}

/** The same, but for a stream that ends before the first byte. @returns null then. */
export async function receiveOrEnd(
  thread: RangeThread,
  bytes: number,
  what: string,
): Promise<Uint8Array<ArrayBuffer> | null> {
  const came = await thread.receive(bytes);
  if (came.length === bytes) return came;
  if (came.length === 0) return null;
  throw new ChannelError(
    "CHANNEL_CUT",
    `${thread.name}: the peer closed inside ${what}, after ${came.length} of ${bytes} bytes`,
  );
}

/**
 * Sends a request with its payload, and takes the answer.
 *
 * @throws {ProtocolError} PEER_REFUSED, RESPONSE_LENGTH; {ChannelError} CHANNEL_CUT, CHANNEL_BROKEN.
 */
export async function ask(
  thread: RangeThread,
  command: CommandName,
  payload: Uint8Array = new Uint8Array(0),
): Promise<void> {
  const request = Buffer.concat([encodeRequest(command, payload.length), payload]);
  await answered(thread, command, thread.send(request));
}

/**
 * Sends a Memory command: the table, then the bytes of its ranges as they are when their turn comes.
 *
 * @param bytesPerSecond  0 for no limit.
 */
export async function sendMemory(
  thread: RangeThread,
  map: MemoryMap,
  table: MemoryRangeTable,
  bytesPerSecond: number,
): Promise<void> {
  const request = Buffer.concat([encodeRequest("memory", table.bytes.length), table.bytes]);
  await answered(thread, "memory", sendAll(thread, request, map, table, bytesPerSecond));
}

async function sendAll(
  thread: RangeThread,
  request: Uint8Array,
  map: MemoryMap,
  table: MemoryRangeTable,
  bytesPerSecond: number,
): Promise<void> {
  let before = thread.send(request);
  // One order ahead of the one under way: the thread never waits for us, and no more is queued.
  for (const pieces of map.pieces(table)) {
    const order = thread.sendRanges(pieces, bytesPerSecond);
    order.catch(() => {}); // told by the await of the next turn, or not at all if an earlier one failed
    await before;
    before = order;
  }
  await before;
}

/** Awaits what was sent and its answer. A destination that refuses may stop reading: its word outranks the broken send. */
async function answered(thread: RangeThread, command: CommandName, sent: Promise<void>): Promise<void> {
  try {
    await sent;
  } catch (error) {
    if (!(error instanceof ChannelError)) throw error;
    const word = await thread.receive(RESPONSE_BYTES).catch(() => new Uint8Array(0));
    if (word.length === RESPONSE_BYTES) takeAnswer(thread, command, word);
    throw error;
  }
  await awaitAnswer(thread, command);
}

/** Takes the answer to a request that has been sent. @throws what `ask` throws. */
export async function awaitAnswer(thread: RangeThread, command: CommandName): Promise<void> {
  takeAnswer(thread, command, await receiveExact(thread, RESPONSE_BYTES, `the answer to ${command}`));
}

function takeAnswer(thread: RangeThread, command: CommandName, word: Uint8Array): void {
  try {
    takeResponse(word, false);
  } catch (error) {
    throw placeError(error, `${thread.name}, ${command}`);
  }
}

/** Answers Error at once, from this thread: the channel's own may be blocked, and so few bytes always find room. */
export function sayError(thread: RangeThread): void {
  try {
    if (thread.channel !== null) sendBytes(thread.channel.descriptor, encodeResponse("error"));
  } catch (error) {
    if (!(placeError(error, thread.name) instanceof ChannelError)) throw error;
  }
}
