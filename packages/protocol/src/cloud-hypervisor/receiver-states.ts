/**
 * Receiver states: which command a destination may get when.
 *
 * The machine that Cloud Hypervisor has had since 50.0. Abandon is legal everywhere; any other command
 * out of its turn, and any step that fails, is answered Error and ends the migration.
 * Source: Cloud Hypervisor 50.0 to 53.0, vmm/src/lib.rs, ReceiveMigrationState.
 */
import { ProtocolError } from "../errors.js";
import type { CommandName } from "./message.js";

export type ReceiverState =
  | "established"
  | "started"
  | "fds-received"
  | "configured"
  | "state-received"
  | "completed"
  | "aborted";

type Steps = Readonly<Partial<Record<CommandName, ReceiverState>>>;

export const RECEIVER_STEPS: Readonly<Record<ReceiverState, Steps>> = {
  established: { start: "started" },
  started: { memoryFd: "fds-received", config: "configured" },
  "fds-received": { memoryFd: "fds-received", config: "configured" },
  configured: { memory: "configured", state: "state-received" },
  "state-received": { complete: "completed", completePaused: "completed" },
  completed: {},
  aborted: {},
};

/**
 * The state that a command leads to.
 *
 * @param descriptorsAfterConfig  Whether MemoryFd may also come behind Config, as the protocol's text has it and no release sends it.
 * @throws {ProtocolError} COMMAND_OUT_OF_ORDER.
 */
export function nextReceiverState(
  state: ReceiverState,
  command: CommandName,
  descriptorsAfterConfig = false,
): ReceiverState {
  if (command === "abandon") return "aborted";
  if (descriptorsAfterConfig && state === "configured" && command === "memoryFd") return "configured";
  const next = RECEIVER_STEPS[state][command];
  if (next !== undefined) return next;
  const due = Object.keys(RECEIVER_STEPS[state]).join(", ") || "nothing";
  throw new ProtocolError("COMMAND_OUT_OF_ORDER", `${command} came in state ${state}, ${due} was due`);
}
