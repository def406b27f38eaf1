/**
 * Test fixture: a thread that receives from one socket and answers with what came.
 */
import { parentPort, workerData } from "node:worker_threads";
import { receiveBytes } from "./socket-streams.js";

const { fd, count } = workerData as { fd: number; count: number };
const out = new Uint8Array(count);
parentPort!.postMessage("started");
const got = receiveBytes(fd, out);
parentPort!.postMessage(out.slice(0, got));
