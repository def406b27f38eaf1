/**
 * Stand-by: loads what a command runs, says `ready`, and lets it begin at a word on standard input.
 *
 * Loaded before the command line by `node --import`, and so by each of its threads too, where it does nothing. A QEMU
 * that is measured stands ready before it is told to migrate; so does a command of ours, and whoever measures both can
 * see to the same moment before each.
 */
import { once } from "node:events";
import { isMainThread } from "node:worker_threads";

if (isMainThread) {
  await import("@multifd/cli");
  process.stdout.write('{"event":"ready"}\n');
  await once(process.stdin, "data");
}
