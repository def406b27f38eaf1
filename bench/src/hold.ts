/**
 * Hold: keeps a Node process that is done alive until its standard input ends.
 *
 * Loaded before the command line by `node --import`. Nothing else changes: the
 * command does its work, says `completed`, and the harness has the time to read
 * in /proc what it used.
 */
process.stdin.resume();
