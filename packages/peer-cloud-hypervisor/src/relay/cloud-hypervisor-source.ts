/** Cloud Hypervisor source: a passing guest as a source in Cloud Hypervisor's protocol. */
import type { CloudHypervisorSourceJob } from "../source-job.js";
import type { OutletSteps } from "./running-outlet.js";

/** The parts of a job that the passing guest has to say. */
export function passingJob({
  guest,
  signal,
  state,
  loaded,
  how,
}: OutletSteps): Pick<CloudHypervisorSourceJob, "source" | "handOver" | "signal" | "memory"> {
  const { config, ram, passing } = guest;
  return {
    source: {
      guest: {
        ram,
        tracker: passing,
        feed: passing,
        devices: [],
        // Its source stands already, and hears from us how this ends.
        pause: async () => {},
        resume: async () => {},
      },
      config,
      snapshot: () => state,
    },
    memory: "stream",
    signal,
    handOver: () => {
      loaded();
      return how;
    },
  };
}
