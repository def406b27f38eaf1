/** A terminal that remembers what was written to it; for tests. */
import type { Terminal } from "./terminal.js";

export type RecordingTerminal = Terminal & { readonly outText: () => string; readonly errText: () => string };

export function recordingTerminal(isInteractive = false): RecordingTerminal {
  let out = "";
  let err = "";
  return {
    out: (text) => {
      out += text;
    },
    err: (text) => {
      err += text;
    },
    isInteractive,
    columns: () => 60,
    outText: () => out,
    errText: () => err,
  };
}
