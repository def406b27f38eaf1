/**
 * Scripted back-end: the least that a QEMU asks of a vhost-user back-end before it can be migrated.
 *
 * It answers and does nothing: for tests of what QEMU saves of a device with more queues than any
 * installed back-end offers. Descriptors that come with a message are dropped by the kernel, for
 * the socket is read without room for them.
 */
import { createServer, type Server, type Socket } from "node:net";

/** By the numbers of the vhost-user protocol. */
const MESSAGES = { getFeatures: 1, setLogBase: 6, getVringBase: 11, getProtocolFeatures: 15, getQueueNum: 17 };
const HEADER_BYTES = 12;
const FLAGS_REPLY = 0b101;
const FLAG_NEED_REPLY = 0b1000;

/** VERSION_1, PROTOCOL_FEATURES and LOG_ALL, for migration, and virtio-net's MQ. */
const FEATURES = (1n << 32n) | (1n << 30n) | (1n << 26n) | (1n << 22n);
/** MQ, LOG_SHMFD, REPLY_ACK. */
const PROTOCOL_FEATURES = 0b1011n;

/** Listens; ends with `close`. @param queues  Queue pairs that it says it has. */
export async function startScriptedBackEnd(path: string, queues: number): Promise<Server> {
  const server = createServer((socket) => answer(socket, queues));
  await new Promise<void>((resolve, reject) => {
    server.once("error", reject);
    server.listen(path, resolve);
  });
  return server;
}

function answer(socket: Socket, queues: number): void {
  let pending = Buffer.alloc(0);
  socket.on("error", () => {}); // QEMU ends as tests end it
  socket.on("data", (chunk) => {
    pending = Buffer.concat([pending, chunk]);
    while (pending.length >= HEADER_BYTES) {
      const bytes = HEADER_BYTES + pending.readUInt32LE(8);
      if (pending.length < bytes) return;
      const [request, flags] = [pending.readUInt32LE(0), pending.readUInt32LE(4)];
      const reply = replyTo(request, flags, pending.subarray(HEADER_BYTES, bytes), queues);
      pending = pending.subarray(bytes);
      if (reply === null) continue;
      const header = Buffer.alloc(HEADER_BYTES);
      for (const [i, word] of [request, FLAGS_REPLY, reply.length].entries()) header.writeUInt32LE(word, 4 * i);
      socket.write(Buffer.concat([header, reply]));
    }
  });
}

function replyTo(request: number, flags: number, payload: Buffer, queues: number): Buffer | null {
  const number = (value: bigint) => {
    const bytes = Buffer.alloc(8);
    bytes.writeBigUInt64LE(value);
    return bytes;
  };
  switch (request) {
    case MESSAGES.getFeatures:
      return number(FEATURES);
    case MESSAGES.getProtocolFeatures:
      return number(PROTOCOL_FEATURES);
    case MESSAGES.getQueueNum:
      return number(BigInt(queues));
    case MESSAGES.getVringBase:
      return Buffer.concat([payload.subarray(0, 4), Buffer.alloc(4)]);
    case MESSAGES.setLogBase:
      return number(0n);
    default:
      return (flags & FLAG_NEED_REPLY) !== 0 ? number(0n) : null;
  }
}
