import assert from "node:assert/strict";
import { joinOptions, partOf, splitCommandLine, splitValue } from "./qemu-options.js";

describe("a QEMU's command line", () => {
  it("is the program, with what loads it, and options of which some take a value", () => {
    const words = [
      ...["/lib/ld.so", "--library-path", "/lib", "/usr/bin/qemu-system-x86_64", "-S", "--m", "4G", "-append", "-x y"],
      ...["disk.img", "-nographic", "-incoming", "defer"],
    ];
    const { program, options } = splitCommandLine(words);
    assert.deepEqual(program, words.slice(0, 4));
    assert.deepEqual(
      options.map(({ name, value }) => [name, value]),
      [
        ["S", null],
        ["m", "4G"],
        ["append", "-x y"],
        [null, "disk.img"],
        ["nographic", null],
        ["incoming", "defer"],
      ],
    );
    assert.deepEqual(joinOptions(options), ["-S", "-m", "4G", ...words.slice(7)]);
  });

  it("begins at its first word where no word is a QEMU's name", () => {
    assert.deepEqual(splitCommandLine(["./wrapper", "-S"]), {
      program: ["./wrapper"],
      options: [{ name: "S", value: null }],
    });
  });

  it("has values of parts, in which a doubled comma is one", () => {
    assert.deepEqual(splitValue("a,path=x,,y,b=1"), ["a", "path=x,,y", "b=1"]);
    assert.equal(partOf("a,path=x,,y,b=1", "path"), "x,y");
    assert.equal(partOf("a,mypath=x", "path"), undefined);
  });
});
