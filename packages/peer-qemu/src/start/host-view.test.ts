import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { viewHost } from "./host-view.js";

describe("what is there on this host", () => {
  let folder: string;
  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), "multifd-"));
  });
  afterEach(() => rmSync(folder, { recursive: true }));

  it("is a socket while somebody has it, whether it is named from the root or not", async () => {
    const server = createServer();
    await new Promise<void>((resolve) => server.listen(join(folder, "a b"), resolve));
    const host = viewHost(folder);
    assert.deepEqual([host.isBound(join(folder, "a b")), host.isBound("a b"), host.isBound("c")], [true, true, false]);
    await new Promise((resolve) => server.close(resolve));
    assert.equal(host.isBound("a b"), false);
  });

  it("is a file, and no folder or device", () => {
    writeFileSync(join(folder, "f"), "");
    const host = viewHost(folder);
    assert.deepEqual(
      [host.isFile("f"), host.isFile("g"), host.isFile("."), host.isFile("/dev/null")],
      [...[true, false, false, false]],
    );
  });
});
