/** passt: its state saved from one instance and loaded into another, and a state that is none refused. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { type FrontEnd, loadState, saveState } from "@multifd/peer-vhost-user";
import { BackEndProcess, createScratchDir, passt, removeScratchDir } from "../peers/index.js";

describe("passt as a peer", () => {
  let dir: string;
  const closers: (() => unknown)[] = [];
  before(() => {
    dir = createScratchDir("disk");
  });
  afterEach(async () => {
    for (const close of closers.splice(0).reverse()) await close();
  });
  after(() => removeScratchDir(dir));

  async function start(name: string): Promise<FrontEnd> {
    const socket = join(dir, name);
    const process = new BackEndProcess(passt(socket));
    closers.push(() => process.stop());
    const frontEnd = await process.connect(socket);
    closers.push(() => frontEnd.close());
    return frontEnd;
  }

  it("saves its state and loads it into another instance", async () => {
    const chunks: Uint8Array[] = [];
    for await (const chunk of saveState(await start("source"))) chunks.push(chunk);
    const state = Buffer.concat(chunks);
    assert.equal(state.subarray(0, 8).toString("hex"), "b1bb1d1b0bb1d1b0");
    await loadState(await start("destination"), [state]);
  });

  it("refuses a state that is none, by its verdict", async () => {
    await assert.rejects(loadState(await start("garbage"), [Buffer.alloc(100, 7)]), { code: "VHOST_STATE_CHECK" });
  });

  it("announces nobody, and says nothing against it", async () => {
    const frontEnd = await start("rarp");
    await frontEnd.sendRarp(Buffer.from("525400a1b2c3", "hex"));
    assert.ok(frontEnd.has("rarp") && frontEnd.isOpen);
  });
});
