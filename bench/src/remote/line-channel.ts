/**
 * Line channel: two benches that talk in JSON, one object per line.
 *
 * A question bears a number and its answer bears the same, for a destination may
 * have to be stopped while it is asked whether it is done. Whatever comes is
 * checked by whoever takes it; here only its length and its form are.
 */
import type { Socket } from "node:net";

const LINE_CHARACTERS_MAX = 16_384;

export type Message = Readonly<Record<string, unknown>>;

/**
 * Calls `onMessage` for every line, and `onEnd` once, with the reason in words.
 * A line that is too long or no JSON object ends the connection.
 */
export function readLines(socket: Socket, onMessage: (message: Message) => void, onEnd: (why: string) => void): void {
  let buffered = "";
  let why = "the other bench closed the connection";
  const refuse = (what: string) => {
    why = `the other end said ${what}; is it a bench of the same version?`;
    socket.destroy();
  };
  socket.setEncoding("utf8");
  socket.on("data", (text: string) => {
    buffered += text;
    for (let end = buffered.indexOf("\n"); end >= 0 && !socket.destroyed; end = buffered.indexOf("\n")) {
      const message = parseMessage(buffered.slice(0, end));
      buffered = buffered.slice(end + 1);
      if (message === null) refuse("what is no JSON object");
      else onMessage(message);
    }
    if (buffered.length > LINE_CHARACTERS_MAX) refuse("a line without end");
  });
  socket.on("error", (error) => {
    why = error.message;
  });
  socket.on("close", () => onEnd(why));
}

export function writeLine(socket: Socket, message: Message): void {
  socket.write(`${JSON.stringify(message)}\n`);
}

function parseMessage(line: string): Message | null {
  try {
    const value: unknown = JSON.parse(line);
    return typeof value === "object" && value !== null ? (value as Message) : null;
  } catch {
    return null;
  }
}
