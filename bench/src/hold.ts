/**
 * Hold: keeps a Node process that is done alive until its standard input ends.
 *
 * Loaded before the command line by `node --import`, and by each of its threads, where it does nothing. Nothing else
 * changes: the command does its work, says `completed`, and the harness has the time to read
 * in /proc what it used.
 */
import { isMainThread } from "node:worker_threads";

if (isMainThread) process.stdin.resume();
