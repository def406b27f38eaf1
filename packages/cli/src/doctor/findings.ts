/** Findings: what the doctor saw, one line each. */

export type Finding = {
  readonly name: string;
  /** `missing` is only worth a word where a remedy is known. */
  readonly state: "ok" | "missing";
  /** Whether nothing can be migrated here without it. */
  readonly required: boolean;
  /** What was found, or what is not possible without it. */
  readonly detail: string;
  readonly remedy?: string;
};

export function found(name: string, detail: string): Finding {
  return { name, state: "ok", required: false, detail };
}

export function missing(name: string, detail: string, remedy: string): Finding {
  return { name, state: "missing", required: false, detail, remedy };
}

/** The same finding, without which nothing works. */
export function required(finding: Finding): Finding {
  return { ...finding, required: true };
}

/** Whether a migration can run on this machine. */
export function canMigrate(findings: readonly Finding[]): boolean {
  return findings.every((finding) => finding.state === "ok" || !finding.required);
}

export function describeFindings(findings: readonly Finding[]): string {
  const width = Math.max(...findings.map(({ name }) => name.length)) + 2;
  const lines = findings.map(({ name, state, detail, remedy }) => {
    const head = `${state === "ok" ? "ok     " : "missing"}  ${name.padEnd(width)}${detail}`;
    return remedy === undefined ? head : `${head}\n${" ".repeat(9 + width)}${remedy}`;
  });
  return `${lines.join("\n")}\n`;
}
