/** `multifd cloud-hypervisor`: migrations in Cloud Hypervisor's own protocol. */
import type { Command } from "commander";
import type { CommandContext } from "../terminal.js";
import { addCloudHypervisorReceive } from "./cloud-hypervisor-receive.js";
import { addCloudHypervisorRelay } from "./cloud-hypervisor-relay.js";
import { addCloudHypervisorSend } from "./cloud-hypervisor-send.js";

export function addCloudHypervisorCommand(program: Command, context: CommandContext): void {
  const group = program
    .command("cloud-hypervisor")
    .summary("receive from, send to, and relay between Cloud Hypervisors")
    .description(
      "Speaks Cloud Hypervisor's migration protocol, of any release since v0.12, and reads and writes its snapshots.",
    );
  addCloudHypervisorReceive(group, context);
  addCloudHypervisorSend(group, context);
  addCloudHypervisorRelay(group, context);
}
