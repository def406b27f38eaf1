/** What a Cloud Hypervisor guest's payloads are called as device states, where it travels between two relays as multifd packets. */
import type { DeviceName } from "@multifd/engine";

/** Config's payload: the guest's introduction, before any RAM. */
export const CONFIG_DEVICE: DeviceName = { idstr: "cloud-hypervisor/config", instanceId: 0 };
/** State's payload, behind all RAM. */
export const STATE_DEVICE: DeviceName = { idstr: "cloud-hypervisor/state", instanceId: 0 };
/** `resume` or `leave-paused`, as text: what the destination does with the guest. */
export const HAND_OVER_DEVICE: DeviceName = { idstr: "cloud-hypervisor/hand-over", instanceId: 0 };
export const HAND_OVER_BYTES_MAX = 16;
