/**
 * Bench: how fast multifd is, beside QEMU and beside the least that has to be done.
 *
 * One image at a time serves all; it lies in a scratch directory that goes with this
 * process, however that ends. Tables go to stdout as soon as a case is done,
 * what is going on to stderr, and the report is written anew after every case.
 */
import { help, type Options, parseOptions, UsageError } from "./options.js";
import { listenForBench } from "./remote/listener.js";
import { runBench } from "./run-bench.js";

const say = (line: string) => process.stderr.write(`${line}\n`);
const show = (text: string) => process.stdout.write(text);

async function run(options: Options): Promise<void> {
  if (options.kind === "listen") await listenForBench(options.listen, options.qemu, say);
  else await runBench(options, { say, show });
}

// Exit handlers end the children and remove the scratch directories; a signal alone would run none of them.
for (const [signal, number] of [
  ["SIGINT", 2],
  ["SIGTERM", 15],
  ["SIGHUP", 1],
] as const) {
  process.once(signal, () => process.exit(128 + number));
}

try {
  const options = parseOptions(process.argv.slice(2));
  if (options === null) show(`${help}\n`);
  else await run(options);
} catch (error) {
  process.exitCode = error instanceof UsageError ? 2 : 1;
  say(`bench: ${error instanceof Error ? error.message : String(error)}`);
}
