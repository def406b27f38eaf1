/**
 * Channel flags: what both ends of a migration have to agree on, and how fast a source may go.
 *
 * Names and defaults are QEMU's (multifd-channels 2, level 1, downtime-limit
 * 300 ms), so that what is typed on either side reads the same.
 */
import type { Compression } from "@multifd/protocol";
import { type Command, Option } from "commander";
import {
  byteSize,
  compression,
  levelComplaint,
  milliseconds,
  qemuCompression,
  uuid,
  wholeNumber,
} from "./option-values.js";

/** A channel is a thread here; QEMU takes up to 255. */
export const CHANNELS_MAX = 64;
export const BANDWIDTH_MAX = 2 ** 50;
const ROUNDS_MAX = 1_000_000;

/** How long a source tries to reach the destination. */
export const CONNECT_TIMEOUT_MS = 10_000;

export type SharedChannelFlags<Method = Compression> = {
  readonly channels: number;
  readonly compression: Method;
  readonly stallTimeout: number;
};

export type ChannelFlags = SharedChannelFlags & { readonly uuid?: Uint8Array };

export type SpeedFlags = {
  readonly level: number;
  readonly maxBandwidth: number;
};

export type SaveFlags = {
  readonly channels: number;
  readonly maxBandwidth: number;
  readonly stallTimeout: number;
};

export type OutgoingFlags = {
  readonly toChannels?: number;
  readonly toCompression?: Compression;
  readonly toLevel: number;
};

export type ConvergenceFlags = {
  readonly downtimeLimit: number;
  readonly roundsMax: number;
  readonly atRoundLimit: "fail" | "switchover";
};

/** Flags that must be the same at both ends, and the stall timeout, which each end has for itself. */
export function addChannelFlags(command: Command): Command {
  return addSharedChannelFlags(command).addOption(
    new Option(
      "--uuid <uuid>",
      "the VM's, borne by every channel (default: zeros when sending, any when receiving)",
    ).argParser(uuid),
  );
}

/** As `addChannelFlags`, for commands that learn the UUID from the VM. */
export function addSharedChannelFlags(command: Command): Command {
  const method = new Option("--compression <method>", "none, zlib or zstd; with multifd at both ends lz4, or auto");
  return addFlagsOfBothEnds(command, method.argParser(compression));
}

/** The same, where the other end is a QEMU whatever happens. */
export function addQemuChannelFlags(command: Command): Command {
  const method = new Option("--compression <method>", "none, zlib or zstd");
  return addFlagsOfBothEnds(command, method.argParser(qemuCompression));
}

function addFlagsOfBothEnds(command: Command, method: Option): Command {
  return command
    .addOption(
      new Option("--channels <n>", "packet channels beside the main channel, the same at both ends")
        .argParser(wholeNumber(1, CHANNELS_MAX))
        .default(2),
    )
    .addOption(method.default("none"))
    .addOption(stallTimeout());
}

function stallTimeout(): Option {
  return new Option("--stall-timeout <ms>", "fail when nothing moves for this long; 0 waits for ever")
    .argParser(milliseconds)
    .default(60_000);
}

/** Flags of a guest that goes from one place on this machine into another, over no wire. */
export function addSaveFlags(command: Command): Command {
  return addThreads(command).addOption(maxBandwidth()).addOption(stallTimeout());
}

/** Called as everywhere, though no channel leaves the machine. */
export function addThreads(command: Command): Command {
  return command.addOption(
    new Option("--channels <n>", "threads that read and write").argParser(wholeNumber(1, CHANNELS_MAX)).default(2),
  );
}

/** How long whoever listens waits for the rest of a source. */
export function addHandshakeTimeout(command: Command): Command {
  return command.addOption(
    new Option("--handshake-timeout <ms>", "from the first connection until every channel has come and said what it is")
      .argParser(milliseconds)
      .default(10_000),
  );
}

/** Flags of a relay's outgoing side, each as the incoming side's unless given. */
export function addOutgoingFlags(command: Command): Command {
  return command
    .addOption(
      new Option("--to-channels <n>", "packet channels to the destination (default: as --channels)").argParser(
        wholeNumber(1, CHANNELS_MAX),
      ),
    )
    .addOption(
      new Option("--to-compression <method>", "towards the destination (default: as --compression)").argParser(
        compression,
      ),
    )
    .addOption(
      new Option("--to-level <level>", "compression level towards the destination: zlib 0 to 9, zstd 0 to 20")
        .argParser(wholeNumber(0, 20))
        .default(1),
    );
}

/** Flags of whoever sends. */
export function addSpeedFlags(command: Command): Command {
  return command
    .addOption(
      new Option("--level <level>", "compression level: zlib 0 to 9, zstd 0 to 20")
        .argParser(wholeNumber(0, 20))
        .default(1),
    )
    .addOption(maxBandwidth());
}

function maxBandwidth(): Option {
  const text = "bytes per second that are sent, such as 500M, until a live guest is paused; 0: no limit";
  return new Option("--max-bandwidth <bytes>", text).argParser(byteSize(0, BANDWIDTH_MAX)).default(0);
}

/** Flags that decide when a live guest is stopped. */
export function addDowntimeLimit(command: Command): Command {
  return command.addOption(
    new Option(
      "--downtime-limit <ms>",
      "stop the guest once the rest can be sent within this time, and another round gains little",
    )
      .argParser(milliseconds)
      .default(300),
  );
}

export function addRoundLimit(command: Command): Command {
  return command
    .addOption(
      new Option("--rounds-max <n>", "rounds while the guest runs").argParser(wholeNumber(1, ROUNDS_MAX)).default(30),
    )
    .addOption(
      new Option("--at-round-limit <what>", "when the guest outran the link: fail, or switchover whatever the downtime")
        .choices(["fail", "switchover"])
        .default("fail"),
    );
}

/** Ends with a usage error where the level is not one of the method's. @param option  Where it came from. */
export function checkLevel(
  command: Command,
  flags: { readonly compression: Compression; readonly level: number },
  option = "--level",
): void {
  const complaint = levelComplaint(flags.compression, flags.level);
  if (complaint !== null) command.error(`error: ${option} ${flags.level}: ${complaint}`);
}
