import assert from "node:assert/strict";
import { type MeasureOptions, parseOptions, UsageError } from "./options.js";

function parse(line: string): MeasureOptions {
  const options = parseOptions(line.split(" ").filter(Boolean));
  assert.equal(options?.kind, "measure");
  return options as MeasureOptions;
}

describe("options of the bench", () => {
  it("leaves open what nobody lists", () => {
    const { lists, parts, rounds, to } = parse("");
    assert.deepEqual(lists, { codecs: null, channels: null, transports: null, images: null, sizes: null });
    assert.deepEqual(parts, ["speed", "live", "coordinator"]);
    assert.deepEqual([rounds, to], [5, null]);
  });

  it("reads lists, codecs in the order of the table", () => {
    const { lists } = parse(
      "--ram-bytes 64M,1G --channels 1,8 --transport tcp,unix --image text --compression zstd,none",
    );
    assert.deepEqual(lists.sizes, [2 ** 26, 2 ** 30]);
    assert.deepEqual(lists.channels, [1, 8]);
    assert.deepEqual(lists.transports, ["tcp", "unix"]);
    assert.deepEqual(lists.images, ["text"]);
    assert.deepEqual(
      lists.codecs?.map(({ method }) => method),
      ["none", "zstd"],
    );
  });

  it("sends only speed over to another machine, by the sockets that it is reached through", () => {
    const { to, parts, lists } = parse("--to tcp:192.0.2.1:4444");
    assert.deepEqual(to, { kind: "tcp", host: "192.0.2.1", port: 4444 });
    assert.deepEqual([parts, lists.transports], [["speed"], ["tcp"]]);
  });

  it("takes several texts to choose variants by, each of which must be in a name of the parts to be measured", () => {
    const words = ["--only", "QEMU 11.1 → QEMU 11.1", "--only", "ceiling, recv"];
    assert.deepEqual((parseOptions(words) as MeasureOptions).only, [words[1], words[3]]);
    assert.deepEqual(parse("--parts live --only moves").only, ["moves"]);
  });

  it("listens with nothing but an address and a QEMU", () => {
    const options = parseOptions(["--listen", "tcp::4444", "--qemu", "7.2"]);
    assert.deepEqual(options, { kind: "listen", listen: { kind: "tcp", host: "", port: 4444 }, qemu: "7.2" });
  });

  const wrong: readonly (readonly [line: string, says: RegExp])[] = [
    ["--ram-bytes 1K", /--ram-bytes 1K/],
    ["--ram-bytes 8M", /from 16M up/],
    ["--channels 0", /--channels 0.*1 to 64/],
    ["--channels 2,2", /names something twice/],
    ["--compression lz5", /--compression lz5.*none/],
    ["--image cat", /--image cat.*mixed/],
    ["--transport pigeon", /unix, tcp/],
    ["--qemu 5.0", /11\.1, 7\.2/],
    ["--parts nothing", /speed, live, coordinator/],
    ["--live-ram 4G", /32M to 2G/],
    ["--live-bandwidth fast", /--live-bandwidth fast/],
    ["--runs 0", /--runs 0/],
    ["--only multifd,QEMU", /--only multifd,QEMU: no variant.*multifd → multifd/],
    ["--parts live --only ceiling", /--only ceiling: no variant.*multifd moves QEMU 11\.1/],
    ["--to nowhere", /--to nowhere/],
    ["--to tcp:a:1 --transport unix", /--transport.*tcp/],
    ["--listen tcp::1 --runs 3", /--runs.*not to the one that listens/],
    ["--fast", /--fast/],
  ];
  for (const [line, says] of wrong) {
    it(`refuses ${line}`, () =>
      assert.throws(
        () => parse(line),
        (error) => error instanceof UsageError && says.test(error.message),
      ));
  }
});
