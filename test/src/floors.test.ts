/** The floors of the workspace: imports go down, never up, never sideways, and packages own up to what they import. */
import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { join, relative } from "node:path";
import { fileURLToPath } from "node:url";

const ROOT = fileURLToPath(new URL("../..", import.meta.url));
const SCOPE = "@multifd/";

/** Peers stand side by side and so do the two pure packages; workers stand on the hot path, which the engine starts by URL. */
function floorOf(name: string): number {
  if (name.startsWith("peer-")) return 5;
  const floors: Readonly<Record<string, number>> = {
    protocol: 0,
    memory: 0,
    native: 1,
    channel: 2,
    dataplane: 3,
    workers: 4,
    engine: 4,
    cli: 6,
  };
  const floor = floors[name];
  if (floor === undefined) throw new Error(`package "${name}" has no floor; give it one in STYLE.md and here`);
  return floor;
}

/** What the workers may import; the engine only asks where they are. */
const WORKERS_STAND_ON = "dataplane";

type SourceFile = { readonly name: string; readonly text: string };
type Package = {
  readonly name: string;
  readonly dependencies: readonly string[];
  readonly files: readonly SourceFile[];
};

const BINDINGS = /(?:\{[^}]*\}|\*(?:\s+as\s+\w+)?|\w+(?:\s*,\s*\{[^}]*\})?)/.source;
const IMPORT = new RegExp(`^(?:import|export)\\s+(?:type\\s+)?(?:${BINDINGS}\\s+from\\s+)?["']([^"']+)["']`, "gm");
const DYNAMIC = /\bimport\(\s*["']([^"']+)["']\s*\)/g;

function importsOf(text: string): string[] {
  return [...text.matchAll(IMPORT), ...text.matchAll(DYNAMIC)].map((match) => match[1]!);
}

/** The package that an import names: its scope and name, without a path inside it. */
function packageOf(specifier: string): string {
  return specifier
    .split("/")
    .slice(0, specifier.startsWith("@") ? 2 : 1)
    .join("/");
}

/** Whether the file ships; a test may import what its package must not. */
function isForTests({ name }: SourceFile): boolean {
  return /\.test\.ts$|(^|\/)fixture/.test(name);
}

function findFaults({ name, dependencies, files }: Package): string[] {
  const faults: string[] = [];
  const used = new Set<string>();
  for (const file of files) {
    const complain = (what: string) => faults.push(`${name}/${file.name}: ${what}`);
    if (/^export \*/m.test(file.text)) complain("exports everything with `export *`");
    if (name !== "workers" && /^export default\b|\bas default\b/m.test(file.text)) complain("has a default export");
    for (const specifier of importsOf(file.text)) {
      const fault = faultOfImport(name, file, specifier);
      if (fault !== null) complain(fault);
      if (isForTests(file) || specifier.startsWith(".") || specifier.startsWith("node:")) continue;
      used.add(packageOf(specifier));
    }
    for (const match of file.text.matchAll(/import\.meta\.resolve\([`"'](@[^`"'$]+)/g)) used.add(packageOf(match[1]!));
  }
  const due = new Set(dependencies);
  for (const each of used)
    if (!due.has(each)) faults.push(`${name}: imports ${each}, which is not among its dependencies`);
  for (const each of due) if (!used.has(each)) faults.push(`${name}: depends on ${each}, which it does not import`);
  return faults;
}

function faultOfImport(name: string, file: SourceFile, specifier: string): string | null {
  const floor = floorOf(name);
  if (specifier.startsWith("node:")) {
    return floor === 0 && !isForTests(file) ? `imports ${specifier} on floor 0` : null;
  }
  if (specifier.startsWith(".")) {
    return /(^|\/)index\.js$/.test(specifier) ? "imports its own package's index" : null;
  }
  if (!specifier.startsWith(SCOPE)) return null;
  const other = packageOf(specifier).slice(SCOPE.length);
  if (other === name) return "imports its own package by name";
  if (name === "workers")
    return other === WORKERS_STAND_ON ? null : `imports ${other}; workers import ${WORKERS_STAND_ON}`;
  const otherFloor = floorOf(other);
  if (otherFloor < floor) return null;
  return `imports ${other} of floor ${otherFloor} from floor ${floor}, ${otherFloor === floor ? "sideways" : "upward"}`;
}

function readPackage(folder: string, name: string): Package {
  const { dependencies = {} } = JSON.parse(readFileSync(join(folder, "package.json"), "utf8")) as {
    dependencies?: Record<string, string>;
  };
  const files = readdirSync(join(folder, "src"), { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile() && entry.name.endsWith(".ts"))
    .map((entry) => join(entry.parentPath, entry.name))
    .map((path) => ({ name: relative(join(folder, "src"), path), text: readFileSync(path, "utf8") }));
  return { name, dependencies: Object.keys(dependencies), files };
}

function hasSource(folder: string): boolean {
  return readdirSync(folder).includes("src");
}

describe("floors of the workspace", () => {
  const folders = readdirSync(join(ROOT, "packages")).map((name) => [name, join(ROOT, "packages", name)] as const);
  for (const [name, folder] of [...folders, ["workers", join(ROOT, "workers")] as const]) {
    if (!hasSource(folder)) continue;
    it(`${name} imports downward only, and what it depends on`, () => {
      const found = readPackage(folder, name);
      assert.ok(found.files.length > 0);
      assert.deepEqual(findFaults(found), []);
    });
  }
});

describe("the check of the floors", () => {
  const check = (name: string, text: string, dependencies: readonly string[] = [], file = "some.ts") =>
    findFaults({ name, dependencies, files: [{ name: file, text }] });

  it("passes what goes down and is depended on", () => {
    const text =
      'import {\n  A,\n  type B,\n} from "@multifd/protocol";\nimport { join } from "node:path";\nimport "./c.js";\n';
    assert.deepEqual(check("engine", text, ["@multifd/protocol"]), []);
  });

  const wrong: readonly (readonly [what: string, name: string, text: string, says: RegExp])[] = [
    ["an import upward", "native", 'import { A } from "@multifd/engine";', /engine of floor 4 from floor 1, upward/],
    ["an import sideways", "protocol", 'import type { A } from "@multifd/memory";', /memory of floor 0.*sideways/],
    ["an import over several lines", "native", 'import {\n  A,\n} from "@multifd/cli";', /cli of floor 6/],
    ["a dynamic import", "native", 'const a = await import("@multifd/cli");', /cli of floor 6/],
    ["a re-export upward", "channel", 'export { A } from "@multifd/dataplane";', /dataplane of floor 3.*upward/],
    [
      "workers that reach past their floor",
      "workers",
      'import { A } from "@multifd/native";',
      /workers import dataplane/,
    ],
    ["an engine that imports the workers", "engine", 'import "@multifd/workers/send-channel";', /sideways/],
    ["node: on floor 0", "memory", 'import { join } from "node:path";', /node:path on floor 0/],
    ["its own index", "engine", 'import { A } from "./index.js";', /its own package's index/],
    ["its own name", "engine", 'import { A } from "@multifd/engine";', /its own package by name/],
    ["export *", "engine", 'export * from "./a.js";', /export \*/],
    ["a default export", "engine", "export default 1;", /a default export/],
    ["a default export by another name", "engine", "export { a as default };", /a default export/],
    ["what is not depended on", "cli", 'import { pino } from "pino";', /imports pino, which is not among/],
  ];
  for (const [what, name, text, says] of wrong) {
    it(`finds ${what}`, () => assert.match(check(name, text).join("\n"), says));
  }

  it("finds a dependency that nobody imports", () => {
    assert.match(check("cli", "", ["commander"]).join("\n"), /depends on commander, which it does not import/);
  });

  it("lets tests of floor 0 import node:, and nobody else", () => {
    assert.deepEqual(check("memory", 'import "node:assert";', [], "a.test.ts"), []);
  });

  it("refuses a package without a floor", () => {
    assert.throws(() => check("attic", 'import "@multifd/protocol";'), /"attic" has no floor/);
  });
});
