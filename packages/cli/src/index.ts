export { GuestProcess } from "./demo/guest-process.js";
export { verifyMigration } from "./demo/verify.js";
export { IncomingGuest } from "./incoming-guest.js";
export { LiveGuest } from "./live-guest.js";
export { runCommandLine } from "./program.js";
export type { Terminal } from "./terminal.js";
