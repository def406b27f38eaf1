export { DirtyBitmap } from "./dirty-bitmap.js";
export type { DirtyTracker } from "./dirty-tracker.js";
export { describeRamBlock, type RamBlock } from "./ram-block.js";
