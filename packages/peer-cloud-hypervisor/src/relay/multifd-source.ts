/**
 * Multifd source: a passing Cloud Hypervisor guest as the engine's own source guest.
 *
 * Config introduces it, so the other relay asks its destination for agreement before RAM moves. State and the
 * kind of handover go with the last round; the destination loads State before the last byte leaves.
 */
import { provideDeviceState, type SourceGuest } from "@multifd/engine";
import { CONFIG_DEVICE, HAND_OVER_DEVICE, STATE_DEVICE } from "./device-names.js";
import type { OutletSteps } from "./running-outlet.js";

export function passingSource({ guest, state, how }: OutletSteps): SourceGuest {
  const { config, ram, passing } = guest;
  return {
    ram,
    tracker: passing,
    feed: passing,
    introduction: [provideDeviceState(CONFIG_DEVICE, config)],
    devices: [
      {
        ...STATE_DEVICE,
        async *save() {
          yield await state;
        },
      },
      {
        ...HAND_OVER_DEVICE,
        async *save() {
          yield Buffer.from(await how);
        },
      },
    ],
    // Its source stands already, and hears from us how this ends.
    pause: async () => {},
    resume: async () => {},
    handOver: () => {},
  };
}
