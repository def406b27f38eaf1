/** Test fixture: a thread that says that it is there, receives from one socket, and answers how many bytes came. */
import { parentPort, workerData } from "node:worker_threads";
import { receiveBytes } from "@multifd/native";

const { descriptor, count } = workerData as { descriptor: number; count: number };
parentPort!.postMessage("there");
parentPort!.postMessage(receiveBytes(descriptor, new Uint8Array(count)));
