/**
 * JSON text: read without losing what `JSON.parse` loses.
 *
 * QEMU's VM description repeats keys inside one object, once per element of a
 * list, and numbers 64 bits wide. So an object is the list of its members as
 * they stand, and an integer is exact: a number as far as one holds it, a bigint
 * beyond. Depth and size are bounded before anything is built.
 *
 * Source: RFC 8259; QEMU 10.2, migration/vmstate-types.c, put_qtailq().
 */

import { ProtocolError } from "./errors.js";

/** An object's members in the order of the text, repeated keys included. */
export class JsonMembers {
  readonly members: readonly (readonly [key: string, value: JsonValue])[];

  constructor(members: readonly (readonly [string, JsonValue])[]) {
    this.members = members;
  }

  /** The last member of that name, as other readers see it; undefined if there is none. */
  last(key: string): JsonValue | undefined {
    for (let i = this.members.length - 1; i >= 0; i--) if (this.members[i]![0] === key) return this.members[i]![1];
    return undefined;
  }
}

export type JsonValue = null | boolean | number | bigint | string | readonly JsonValue[] | JsonMembers;

export type JsonLimits = {
  readonly charactersMax: number;
  readonly depthMax: number;
  /** Members and elements of all objects and arrays together. */
  readonly valuesMax: number;
};

/** Longer ones are not numbers that anybody counts with, and cost more than their length. */
const NUMBER_CHARACTERS_MAX = 64;

/**
 * Reads one JSON value that takes the whole text.
 *
 * @throws {ProtocolError} JSON_SYNTAX or JSON_TOO_LARGE, with the character it was found at.
 */
export function parseJsonText(text: string, limits: JsonLimits): JsonValue {
  if (text.length > limits.charactersMax)
    throw new ProtocolError("JSON_TOO_LARGE", `the text is longer than ${limits.charactersMax} characters`);
  const reader = new JsonReader(text, limits);
  const value = reader.value(0);
  reader.end();
  return value;
}

/** A member of the outermost object, with its value exactly as the text has it. */
export type JsonMemberText = { readonly key: string; readonly value: JsonValue; readonly text: string };

/**
 * Reads an object that takes the whole text, and keeps each member's own text: for whoever passes parts of it on.
 *
 * @throws {ProtocolError} JSON_SYNTAX, also where the value is no object, or JSON_TOO_LARGE.
 */
export function parseJsonMembers(text: string, limits: JsonLimits): readonly JsonMemberText[] {
  if (text.length > limits.charactersMax)
    throw new ProtocolError("JSON_TOO_LARGE", `the text is longer than ${limits.charactersMax} characters`);
  const reader = new JsonReader(text, limits);
  const spans: Span[] = [];
  const members = reader.object(spans);
  reader.end();
  return members.map(([key, value], i) => ({ key, value, text: text.slice(spans[i]!.from, spans[i]!.to) }));
}

/** Where a value stands in the text. */
type Span = { readonly from: number; readonly to: number };

const SPACE = /[ \t\n\r]*/y;
const NUMBER = /-?(?:0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?/y;
// biome-ignore lint/suspicious/noControlCharactersInRegex: RFC 8259 keeps them out of strings.
const PLAIN = /[^"\\\u0000-\u001f]*/y;
const WORDS: readonly (readonly [string, null | boolean])[] = [
  ["true", true],
  ["false", false],
  ["null", null],
];
const ESCAPES: Readonly<Record<string, string>> = {
  '"': '"',
  "\\": "\\",
  "/": "/",
  b: "\b",
  f: "\f",
  n: "\n",
  r: "\r",
  t: "\t",
};

class JsonReader {
  readonly #text: string;
  readonly #limits: JsonLimits;
  #at = 0;
  #values = 0;

  constructor(text: string, limits: JsonLimits) {
    this.#text = text;
    this.#limits = limits;
  }

  value(depth: number): JsonValue {
    this.#match(SPACE);
    const first = this.#text[this.#at];
    if (first === "{" || first === "[") {
      if (depth === this.#limits.depthMax)
        throw this.#refused("JSON_TOO_LARGE", `it is nested deeper than ${depth} levels`);
      this.#at += 1;
      return first === "{" ? new JsonMembers(this.#members(depth + 1)) : this.#elements(depth + 1);
    }
    if (first === '"') return this.#string();
    for (const [word, value] of WORDS) {
      if (!this.#text.startsWith(word, this.#at)) continue;
      this.#at += word.length;
      return value;
    }
    return this.#number();
  }

  /** @param spans  Takes the place of each member's value. */
  object(spans: Span[]): readonly (readonly [string, JsonValue])[] {
    if (!this.#take("{")) throw this.#refused("JSON_SYNTAX", "an object was due");
    return this.#members(1, spans);
  }

  end(): void {
    this.#match(SPACE);
    if (this.#at < this.#text.length) throw this.#refused("JSON_SYNTAX", "something follows the value");
  }

  #members(depth: number, spans: Span[] | null = null): (readonly [string, JsonValue])[] {
    const members: (readonly [string, JsonValue])[] = [];
    if (this.#take("}")) return members;
    do {
      this.#match(SPACE);
      if (this.#text[this.#at] !== '"') throw this.#refused("JSON_SYNTAX", "a member's name was due");
      const key = this.#string();
      if (!this.#take(":")) throw this.#refused("JSON_SYNTAX", '":" was due');
      this.#count();
      this.#match(SPACE);
      const from = this.#at;
      members.push([key, this.value(depth)]);
      spans?.push({ from, to: this.#at });
    } while (this.#take(","));
    if (!this.#take("}")) throw this.#refused("JSON_SYNTAX", '"," or "}" was due');
    return members;
  }

  #elements(depth: number): JsonValue[] {
    const elements: JsonValue[] = [];
    if (this.#take("]")) return elements;
    do {
      this.#count();
      elements.push(this.value(depth));
    } while (this.#take(","));
    if (!this.#take("]")) throw this.#refused("JSON_SYNTAX", '"," or "]" was due');
    return elements;
  }

  #number(): number | bigint {
    const [text, fraction, exponent] = this.#match(NUMBER) ?? [""];
    if (text === "") throw this.#refused("JSON_SYNTAX", "a value was due");
    if (text.length > NUMBER_CHARACTERS_MAX) throw this.#refused("JSON_SYNTAX", "a number is too long");
    const value = Number(text);
    return fraction === undefined && exponent === undefined && !Number.isSafeInteger(value) ? BigInt(text) : value;
  }

  #string(): string {
    this.#at += 1;
    let text = this.#match(PLAIN)![0];
    for (;;) {
      const mark = this.#text[this.#at];
      if (mark === '"') break;
      if (mark !== "\\") throw this.#refused("JSON_SYNTAX", "a string does not end");
      text += this.#escape() + this.#match(PLAIN)![0];
    }
    this.#at += 1;
    return text;
  }

  #escape(): string {
    const letter = this.#text[this.#at + 1] ?? "";
    const known = ESCAPES[letter];
    if (known !== undefined) {
      this.#at += 2;
      return known;
    }
    const digits = this.#text.slice(this.#at + 2, this.#at + 6);
    if (letter !== "u" || !/^[0-9a-fA-F]{4}$/.test(digits))
      throw this.#refused("JSON_SYNTAX", "an unknown escape came");
    this.#at += 6;
    return String.fromCharCode(Number.parseInt(digits, 16));
  }

  #take(mark: string): boolean {
    this.#match(SPACE);
    if (this.#text[this.#at] !== mark) return false;
    this.#at += 1;
    return true;
  }

  #match(pattern: RegExp): RegExpExecArray | null {
    pattern.lastIndex = this.#at;
    const match = pattern.exec(this.#text);
    if (match !== null) this.#at += match[0].length;
    return match;
  }

  #count(): void {
    this.#values += 1;
    const { valuesMax } = this.#limits;
    if (this.#values > valuesMax) throw this.#refused("JSON_TOO_LARGE", `it has more than ${valuesMax} values`);
  }

  #refused(code: string, what: string): ProtocolError {
    return new ProtocolError(code, `character ${this.#at}: ${what}`);
  }
}
