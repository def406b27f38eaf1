/**
 * Listener: runs destinations for a bench on another machine, one at a time.
 *
 * It serves one bench after the other until a signal ends it. What a bench has
 * started ends with its connection. Whoever reaches the port can make this machine
 * receive RAM into memory, nothing else; still, it is for networks that one trusts.
 */
import { createHash } from "node:crypto";
import { createReadStream, rmSync } from "node:fs";
import { createServer, type Server, type Socket } from "node:net";
import { join } from "node:path";
import { pipeline } from "node:stream/promises";
import { type Address, formatAddress } from "@multifd/channel";
import { createScratchDir, type QemuVersion, removeScratchDir } from "@multifd/test/peers";
import { type ArrivedDestination, localPlace } from "../destinations.js";
import { LOOPBACK } from "../endpoint.js";
import { installedQemu } from "../installed-qemu.js";
import { checkArrivalRoom, describeMachine } from "../machine.js";
import { FORMAT, parseArrival } from "./arrival-message.js";
import { type Message, readLines, writeLine } from "./line-channel.js";

/** How long one that came too early may take to hang up. */
const FAREWELL_MS = 5000;

/** Says where it listens and serves until the process ends. @throws {Error} where it cannot listen. */
export async function listenForBench(at: Address, qemu: QemuVersion, say: (line: string) => void): Promise<void> {
  const server = await openListener(at, qemu, say);
  say(
    `listening at ${formatAddress(chosenAddress(server, at))}; on the other machine: multifd bench --to tcp:HOST:PORT`,
  );
}

/** Where it listens, the port known. */
export function chosenAddress(server: Server, at: Address): Address {
  const chosen = server.address();
  return at.kind === "tcp" && typeof chosen === "object" && chosen !== null ? { ...at, port: chosen.port } : at;
}

/** @returns the server, listening. */
export async function openListener(at: Address, qemu: QemuVersion, say: (line: string) => void): Promise<Server> {
  let isBusy = false;
  const server = createServer((socket) => {
    if (isBusy) {
      socket.on("error", () => {}); // it has gone by itself
      socket.resume(); // what is left unread would cut the answer short
      socket.setTimeout(FAREWELL_MS, () => socket.destroy());
      writeLine(socket, { id: 0, error: "another bench is being served" });
      socket.end();
      return;
    }
    isBusy = true;
    say(`serving ${socket.remoteAddress ?? "a bench on this machine"}`);
    const end = (why: string) => {
      isBusy = false;
      say(`free again: ${why}`);
    };
    serve(socket, qemu).then(end, (error: Error) => end(error.message));
  });
  await new Promise<void>((resolve, reject) => {
    server.once("error", reject);
    if (at.kind === "unix") server.listen(at.path, resolve);
    else server.listen(at.port, at.host === "" ? undefined : at.host, resolve);
  });
  return server;
}

/** @returns why it ended, in words, when everything that it started has ended too. */
async function serve(socket: Socket, qemu: QemuVersion): Promise<string> {
  const dir = createScratchDir("ram");
  const receivedPath = join(dir, "received");
  const place = localPlace(qemu, receivedPath, (socket.localAddress ?? LOOPBACK).replace(/^::ffff:/, ""));
  let current: ArrivedDestination | null = null;
  const destination = () => {
    if (current) return current;
    throw new Error("no destination has been started");
  };
  const stop = async () => {
    const ending = current;
    current = null;
    await ending?.stop();
  };
  const answer = async (question: Message): Promise<Message> => {
    const { ask } = question as { readonly ask?: unknown };
    switch (ask) {
      case "hello": {
        const { format } = question as { readonly format?: unknown };
        if (format !== FORMAT)
          throw new Error(`this bench speaks format ${FORMAT}, that one ${JSON.stringify(format)}`);
        return { hasQemu: installedQemu(qemu) !== null, qemu, machine: describeMachine() };
      }
      case "start": {
        await stop();
        const arrival = parseArrival(question);
        checkArrivalRoom(arrival.ramBytes);
        const started = await place.start(arrival);
        if (socket.destroyed) await started.stop(); // nobody is left to ask for it
        current = started;
        return { address: started.address };
      }
      case "warm":
        await destination().warm();
        return {};
      case "completed":
        return { usage: await destination().completed() };
      case "digest":
        destination();
        return { digest: await digestOf(receivedPath) };
      case "stop":
        await stop();
        return {};
      default:
        throw new Error(`a question ${JSON.stringify(ask)}`);
    }
  };
  const why = await new Promise<string>((resolve) => {
    readLines(
      socket,
      (question) => {
        const { id } = question as { readonly id?: unknown };
        answer(question).then(
          (said) => writeLine(socket, { ...said, id }),
          (error: Error) => writeLine(socket, { id, error: error.message }),
        );
      },
      resolve,
    );
  });
  await stop();
  rmSync(receivedPath, { force: true });
  removeScratchDir(dir);
  return why;
}

/** SHA-256 of a file. */
export async function digestOf(path: string): Promise<string> {
  const hash = createHash("sha256");
  await pipeline(createReadStream(path, { highWaterMark: 2 ** 22 }), hash);
  return hash.digest("hex");
}
