import assert from "node:assert/strict";
import { runCommandLine } from "./program.js";
import { recordingTerminal } from "./recording-terminal.js";

const COMMANDS = ["demo", "receive", "send", "relay", "migrate", "convert", "inspect", "doctor"];

async function run(line: string) {
  const terminal = recordingTerminal();
  const code = await runCommandLine(line.split(" ").filter(Boolean), terminal);
  return { code, out: terminal.outText(), err: terminal.errText() };
}

describe("command line", () => {
  it("lists every command, and each has help with an example", async () => {
    const { code, out } = await run("--help");
    assert.equal(code, 0);
    for (const name of COMMANDS) {
      assert.match(out, new RegExp(`^ {2}${name} `, "m"));
      const help = await run(`${name} --help`);
      assert.equal(help.code, 0);
      assert.match(help.out, new RegExp(`Example:\n {2}multifd ${name} `));
    }
  });

  it("hands what follows bench to the harness, and its exit code back", async () => {
    const help = await run("bench --help");
    assert.equal(help.code, 0);
    assert.match(help.out, /^Usage: multifd bench/m);
    assert.deepEqual(await run("bench --channels 0"), {
      code: 2,
      out: "",
      err: "bench: --channels 0: write a whole number from 1 to 64\n",
    });
  });

  it("answers wrong usage with exit code 2 and one line on stderr that names the flag", async () => {
    const wrong: [line: string, says: RegExp][] = [
      ["migrat", /unknown command 'migrat'/],
      ["demo --fast", /unknown option '--fast'/],
      ["demo --channels 0", /--channels.*from 1 to 64/],
      ["demo --rate 5X", /--rate.*bytes from 0/],
      ["demo --ram-bytes 1000K", /--ram-bytes/],
      ["demo --ram-bytes 1048577", /--ram-bytes.*whole pages/],
      ["demo --ram-bytes 1M --working-set 2M", /--working-set/],
      ["demo --compression zlib --level 10", /--level 10: zlib/],
      ["demo --transport carrier-pigeon", /--transport.*unix, tcp/],
      ["send --ram pc.ram=/x", /--to/],
      ["send --to unix:/x", /--ram.*--from/],
      ["send --to unix:/x --from a --devices b", /--from.*cannot be used/],
      ["send --ram pc.ram --to unix:/x", /BLOCK=PATH/],
      ["send --ram pc.ram=/x --to 10.0.0.1:4444", /tcp:HOST:PORT/],
      ["send --ram pc.ram=/x --to unix:/x --max-bandwidth fast", /--max-bandwidth/],
      ["send --ram pc.ram=/x --to unix:/x --sync never", /--sync.*auto, round, section/],
      ["send --ram pc.ram=/x --to unix:/x --zero-pages none", /--zero-pages.*auto, packets, main/],
      ["send --ram pc.ram=/x --to unix:/x --ignore-shared", /--ignore-shared.*--devices/],
      ["receive --listen unix:/x", /--ram BLOCK=PATH and --devices PATH, or --out PATH, or --guest/],
      ["receive --listen unix:/x --out a --ram b=c", /--out.*cannot be used/],
      ["receive --listen unix:/x --out a --form zip", /mapped-ram, compressed/],
      ["receive --listen unix:/x --devices a --form compressed", /--form.*--out/],
      ["convert a", /out/],
      ["receive --listen unix:/x --guest unix:/y --ram a=b --devices c", /--guest.*cannot be used/],
      ["receive --listen unix:/x --guest unix:/y --uuid 12", /--uuid/],
      ["migrate --guest tcp::1 --to unix:/x", /--guest.*unix:PATH/],
      ["migrate --guest unix:/g --to unix:/x --at-round-limit shrug", /fail, switchover/],
      ["inspect", /path/],
    ];
    for (const [line, says] of wrong) {
      const { code, out, err } = await run(line);
      assert.equal(code, 2, line);
      assert.equal(out, "", line);
      assert.match(err, says, line);
      assert.equal(err.trimEnd().split("\n").length, 1, `${line}: ${err}`);
    }
  });

  it("shows the help on stderr and exits with 2 where no command is given", async () => {
    const { code, err } = await run("");
    assert.equal(code, 2);
    assert.match(err, /Usage: multifd/);
  });

  it("ends a migration that cannot begin with a failed event, exit code 1, and its code", async () => {
    const missing = "/nonexistent/multifd";
    for (const line of [
      `send --ram pc.ram=${missing} --to unix:${missing} --json`,
      `migrate --guest unix:${missing} --to unix:${missing} --json`,
      `receive --listen unix:${missing} --guest unix:${missing} --json`,
    ]) {
      const { code, out } = await run(line);
      assert.equal(code, 1, line);
      const event = JSON.parse(out) as { event: string; code: string; message: string };
      assert.equal(event.event, "failed");
      assert.ok(["SYSTEM_ENOENT", "GUEST_GONE"].includes(event.code), event.code);
      assert.ok(event.message.includes(missing));
    }
  });
});
