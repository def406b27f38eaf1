import assert from "node:assert/strict";
import fc from "fast-check";
import { JsonMembers, type JsonValue, parseJsonMembers, parseJsonText } from "./json-text.js";

const LIMITS = { charactersMax: 10_000, depthMax: 20, valuesMax: 1000 };
const parse = (text: string) => parseJsonText(text, LIMITS);

/** As `JSON.parse` would have it: the last of several members, bigints rounded. */
function plain(value: JsonValue): unknown {
  if (typeof value === "bigint") return Number(value);
  if (Array.isArray(value)) return value.map(plain);
  if (!(value instanceof JsonMembers)) return value;
  return Object.fromEntries(value.members.map(([key, member]) => [key, plain(member)]));
}

describe("JSON text", () => {
  it("is read as JSON.parse reads it, spaces and escapes included", () => {
    const indent = fc.constantFrom(0, 1, 3);
    fc.assert(
      fc.property(fc.json({ maxDepth: 6 }), indent, (text, spaces) => {
        const spread = JSON.stringify(JSON.parse(text), null, spaces);
        assert.deepEqual(plain(parse(spread)), JSON.parse(spread));
      }),
    );
  });

  it("keeps every member of an object whose keys repeat, in order", () => {
    const value = parse('{"a":1,"b":2,"a":[3]}');
    assert.ok(value instanceof JsonMembers);
    assert.deepEqual(value.members, [
      ["a", 1],
      ["b", 2],
      ["a", [3]],
    ]);
    assert.deepEqual(value.last("a"), [3]);
    assert.equal(value.last("c"), undefined);
  });

  it("keeps integers exact, beyond 2^53 too", () => {
    assert.deepEqual(parse("[9007199254740991, 9007199254740993, -18446744073709551615, 1e3, 1.5]"), [
      9007199254740991,
      9007199254740993n,
      -18446744073709551615n,
      1000,
      1.5,
    ]);
  });

  for (const text of [
    "",
    "{",
    "[1,]",
    '{"a"}',
    "{1:2}",
    "01",
    "-",
    '"\u0000"',
    '"\\x"',
    '"open',
    "nul",
    "1 2",
    "1.",
    '"\\u12g4"',
  ])
    it(`refuses ${JSON.stringify(text)} as JSON.parse does, and says at which character`, () => {
      assert.throws(() => JSON.parse(text));
      assert.throws(() => parse(text), { code: "JSON_SYNTAX", message: /^character \d+: / });
    });

  for (const [what, text] of [
    ["long text", `"${"x".repeat(10_000)}"`],
    ["deep nesting", "[".repeat(21)],
    ["many values", `[${"0,".repeat(1000)}0]`],
  ] as const)
    it(`refuses ${what} before it costs much`, () => {
      assert.throws(() => parse(text), { code: "JSON_TOO_LARGE" });
    });

  it("refuses a number longer than any that is counted with", () => {
    assert.throws(() => parse("1".repeat(65)), { code: "JSON_SYNTAX", message: /number is too long/ });
  });

  it("never fails in another way, whatever the text", () => {
    const soup = fc.array(fc.constantFrom(...'{}[]",:\\u01e-.tfn \n'.split("")), { maxLength: 60 });
    fc.assert(
      fc.property(soup, (marks) => {
        const text = marks.join("");
        let due: unknown;
        try {
          due = JSON.parse(text);
        } catch {
          assert.throws(() => parse(text), { name: "ProtocolError" });
          return;
        }
        assert.deepEqual(plain(parse(text)), due);
      }),
      { numRuns: 2000 },
    );
  });

  it("gives each member of an object its own text, to the character", () => {
    const text = ' {"a" :  {"n": 9223372036854775809 , "s":"\\u0041"} ,"b":[1 ,2],\n"a":-0.10 } ';
    assert.deepEqual(
      parseJsonMembers(text, LIMITS).map(({ key, text }) => [key, text]),
      [
        ["a", '{"n": 9223372036854775809 , "s":"\\u0041"}'],
        ["b", "[1 ,2]"],
        ["a", "-0.10"],
      ],
    );
    assert.deepEqual(parseJsonMembers("{}", LIMITS), []);
  });

  it("gives no members of what is not one object", () => {
    for (const text of ["[1]", "7", "", '{"a":1} x', '{"a":}'])
      assert.throws(() => parseJsonMembers(text, LIMITS), { code: "JSON_SYNTAX" });
    assert.throws(() => parseJsonMembers(`{"a":"${"x".repeat(LIMITS.charactersMax)}"}`, LIMITS), {
      code: "JSON_TOO_LARGE",
    });
  });
});
