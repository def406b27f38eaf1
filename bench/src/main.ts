/**
 * Bench: how fast multifd is, beside QEMU and beside the least that has to be done.
 *
 * One RAM image serves all; it lies in a scratch directory that goes with this
 * process, however that ends. Tables go to stdout as soon as a method is done,
 * what is going on to stderr.
 */
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { createScratchDir, mixedImage, removeScratchDir } from "@multifd/test/peers";
import { judge } from "./contract.js";
import { checkRoom, describeMachine } from "./machine.js";
import { help, type Options, parseOptions, UsageError } from "./options.js";
import { measureMethod } from "./rounds.js";
import { summarize } from "./summary.js";
import { formatTable, formatVerdicts } from "./table.js";
import { variants } from "./variants.js";

const IMAGE_SEED = 1;

const say = (line: string) => process.stderr.write(`${line}\n`);

async function run(options: Options): Promise<void> {
  const { ramBytes, channels, transport, rounds, methods, only, jsonPath } = options;
  const machine = describeMachine();
  checkRoom(ramBytes);
  const dir = createScratchDir("ram");
  try {
    const imagePath = join(dir, "image");
    say(`making an image of ${ramBytes / 2 ** 20} MiB`);
    mixedImage(imagePath, ramBytes, IMAGE_SEED);
    const setup = { channels, transport, imagePath, ramBytes, receivedPath: join(dir, "received") };
    process.stdout.write(
      `${ramBytes / 2 ** 20} MiB of RAM, ${channels} channels, ${transport} sockets, ${rounds} rounds; ` +
        `${machine.cores} × ${machine.cpu}, Linux ${machine.kernel}, Node ${machine.node}, load ${machine.load.toFixed(2)}\n`,
    );
    const results = [];
    for (const method of methods) {
      const chosen = variants.filter(({ name, methods }) => methods.includes(method) && name.includes(only));
      const summary = summarize(method, ramBytes, await measureMethod(chosen, method, setup, rounds, say));
      const verdicts = judge(summary, channels);
      results.push({ ...summary, verdicts });
      process.stdout.write(`${formatTable(summary)}\n${formatVerdicts(verdicts)}\n`);
    }
    if (jsonPath !== null) writeFileSync(jsonPath, `${JSON.stringify({ machine, options, results }, null, 2)}\n`);
  } finally {
    removeScratchDir(dir);
  }
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
  if (options === null) process.stdout.write(`${help}\n`);
  else await run(options);
} catch (error) {
  process.exitCode = error instanceof UsageError ? 2 : 1;
  say(`bench: ${error instanceof Error ? error.message : String(error)}`);
}
