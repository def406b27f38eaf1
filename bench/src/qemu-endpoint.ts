/**
 * QEMU as an endpoint: a paused guest whose RAM is a shared file, driven over QMP.
 *
 * The wall time is QEMU's own total-time, from the command to the end of the
 * migration at the source; its wire bytes are what it says it transferred.
 */
import { type MigrationOutcome, QemuProcess, type QemuVersion } from "@multifd/test/peers";
import { type Codec, LEVEL } from "./codecs.js";
import {
  COMPLETION_TIMEOUT_MS,
  type DestinationJob,
  type DestinationProgram,
  listenAddress,
  RAM_BLOCK,
  type SourceProgram,
} from "./endpoint.js";
import { ProcessMeter } from "./process-meter.js";

export function qemuDestination(version: QemuVersion): DestinationProgram {
  return async (job) => {
    const vm = await startVm(version, job, job.receivedPath, "defer");
    try {
      const address = await listenAt(vm, job);
      const meter = new ProcessMeter(vm.pid);
      return {
        address,
        completed: async () => {
          expectCompleted(await vm.waitMigration(COMPLETION_TIMEOUT_MS), `QEMU ${version} as destination`);
          const usage = meter.stop();
          await vm.stop();
          return usage;
        },
        stop: async () => {
          meter.cancel();
          await vm.stop();
        },
      };
    } catch (error) {
      await vm.stop();
      throw error;
    }
  };
}

export function qemuSource(version: QemuVersion): SourceProgram {
  return async (job, address) => {
    const vm = await startVm(version, job, job.imagePath, null);
    const meter = new ProcessMeter(vm.pid);
    try {
      await job.ready();
      await vm.migrateTo(address);
      const outcome = await vm.waitMigration(COMPLETION_TIMEOUT_MS);
      const usage = meter.stop();
      expectCompleted(outcome, `QEMU ${version} as source`);
      const { "total-time": wallMs, ram } = outcome.info as { "total-time": number; ram: { transferred: number } };
      return { ...usage, wallMs, wireBytes: ram.transferred };
    } finally {
      meter.cancel();
      await vm.stop();
    }
  };
}

/** Lets a QEMU that was started for it listen. @returns the address, its port known. */
async function listenAt(vm: QemuProcess, job: DestinationJob): Promise<string> {
  await vm.listen(listenAddress(job));
  if (job.transport === "unix") return listenAddress(job);
  // Source: QEMU 11.1, qapi/migration.json, MigrationInfo.
  const answer = (await vm.execute("query-migrate")) as {
    "socket-address"?: readonly { readonly host: string; readonly port: string }[];
  };
  const [first] = answer["socket-address"] ?? [];
  if (!first) throw new Error(`QEMU ${vm.version} does not say where it listens: ${JSON.stringify(answer)}`);
  return `tcp:${first.host}:${first.port}`;
}

type VmJob = { readonly codec: Codec; readonly channels: number; readonly ramBytes: number };

async function startVm(version: QemuVersion, job: VmJob, path: string, incoming: string | null): Promise<QemuProcess> {
  const memory = [{ id: RAM_BLOCK, path, bytes: job.ramBytes }];
  const compression = job.codec.qemu;
  if (compression === null) throw new Error(`QEMU does not speak ${job.codec.method}`);
  const vm = await QemuProcess.start({ version, memory, paused: true, ...(incoming !== null && { incoming }) });
  try {
    await vm.setMigration({ channels: job.channels, compression, level: LEVEL });
    return vm;
  } catch (error) {
    await vm.stop();
    throw error;
  }
}

export function expectCompleted(outcome: MigrationOutcome, who: string): void {
  if (outcome.status === "completed") return;
  throw new Error(`${who}: the migration ${outcome.status}: ${outcome.error ?? "no reason given"}`);
}
