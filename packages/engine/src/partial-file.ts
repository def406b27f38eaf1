/**
 * Partial file: the name that a file bears until it is whole, and the step to its own.
 *
 * The source gives its guest up for our word, so what we vouch for must outlive a
 * power cut: the bytes, which whoever writes them syncs, and the name, which is
 * on the medium only when its folder is.
 */
import { open, rename } from "node:fs/promises";
import { dirname } from "node:path";

/** Where nothing can be done: a file system that has no such thing, or a folder that may be written but not read. */
const FOLDER_NOT_SYNCED: ReadonlySet<string | undefined> = new Set(["EINVAL", "ENOTSUP", "EACCES"]);

/** Name under which a file is written until it is whole. */
export function partialPath(path: string): string {
  return `${path}.partial`;
}

/** Gives a file, whole and synced, its own name. `syncFolder` makes that last. */
export function nameWholeFile(path: string): Promise<void> {
  return rename(partialPath(path), path);
}

/** Waits until a name in a folder is on its medium. @param path  The file. */
export async function syncFolder(path: string): Promise<void> {
  try {
    const folder = await open(dirname(path), "r");
    try {
      await folder.sync();
    } finally {
      await folder.close();
    }
  } catch (error) {
    if (!FOLDER_NOT_SYNCED.has((error as NodeJS.ErrnoException).code)) throw error;
  }
}
