/**
 * Dialect flags: what a QEMU destination expects, where its machine type does not tell.
 *
 * `auto` is right for every machine type that bears its version. The others are for
 * one that does not ("microvm") on an old QEMU, and for a QEMU whose migration
 * properties were set by hand.
 */
import type { Dialect, QemuSourceTerms } from "@multifd/peer-qemu";
import { type Command, Option } from "commander";

export type DialectFlags = {
  readonly sync: "auto" | "round" | "section";
  readonly zeroPages: "auto" | "packets" | "main";
  readonly switchoverStart: "auto" | "on" | "off";
  readonly returnPath: boolean;
};

export function addDialectFlags(command: Command): Command {
  return command
    .addOption(
      new Option("--sync <per>", "QEMU destination: what closes a round, by its machine type unless named here")
        .choices(["auto", "round", "section"])
        .default("auto"),
    )
    .addOption(
      new Option("--zero-pages <where>", "QEMU destination: zero pages in packets, or on the main channel (before 9.0)")
        .choices(["auto", "packets", "main"])
        .default("auto"),
    )
    .addOption(
      new Option("--switchover-start <when>", "QEMU destination: say SWITCHOVER_START (unknown before 10.0)")
        .choices(["auto", "on", "off"])
        .default("auto"),
    )
    .option("--no-return-path", "the destination cannot answer: completed means sent, and nobody acknowledges");
}

/** What of them a peer has to be told. */
export function dialectTerms(flags: DialectFlags): Pick<QemuSourceTerms, "dialect" | "returnPath"> {
  const dialect: Partial<Dialect> = {
    ...(flags.sync !== "auto" && { syncPer: flags.sync }),
    ...(flags.zeroPages !== "auto" && { zeroPages: flags.zeroPages === "main" ? "on-main" : "in-packets" }),
    ...(flags.switchoverStart !== "auto" && { switchoverStart: flags.switchoverStart === "on" }),
  };
  return { dialect, returnPath: flags.returnPath ? "open" : "none" };
}

/** Whether nothing is left to the machine type. */
export function isDialectTold(flags: DialectFlags): boolean {
  return flags.sync !== "auto" && flags.zeroPages !== "auto" && flags.switchoverStart !== "auto";
}
