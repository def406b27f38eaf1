/**
 * QEMU options: a QEMU's command line as the program, and options with their values.
 *
 * Which options take a value has to be known, for a value may begin with a dash (`-append -x`). All do but those
 * listed; a word where an option is due is a disk image.
 *
 * Source: QEMU 4.0 to 11.1, system/vl.c, lookup_opt(); asked of 7.2 and 11.1 option by option.
 */

/** `name` without dashes, null for a disk image; `value` null where the option takes none. */
export type QemuOption = { readonly name: string | null; readonly value: string | null };

export type QemuLine = {
  /** Up to QEMU itself: a loader and what it is told may come before. */
  readonly program: readonly string[];
  readonly options: readonly QemuOption[];
};

const WITHOUT_VALUE = new Set(
  (
    "S alt-grab async-teardown audio-help ctrl-grab curses daemonize enable-fips enable-hax enable-kvm enable-sync-profile " +
    "full-screen h help jitdump mem-prealloc no-acpi no-fd-bootchk no-frame no-hpet no-kvm no-quit no-reboot no-shutdown " +
    "no-user-config nodefaults nographic old-param only-migratable perfmap portrait preconfig s sdl semihosting show-cursor " +
    "singlestep snapshot usb version win2k-hack xen-attach xen-domid-restrict"
  ).split(" "),
);
const QEMU = /(^|\/)\.?(qemu-system-[^/]+|qemu-kvm|kvm)$/;

/** Takes the words of a command line apart. */
export function splitCommandLine(words: readonly string[]): QemuLine {
  const at = Math.max(
    0,
    words.findIndex((word) => QEMU.test(word)),
  );
  return { program: words.slice(0, at + 1), options: splitOptions(words.slice(at + 1)) };
}

function splitOptions(words: readonly string[]): QemuOption[] {
  const options: QemuOption[] = [];
  for (let at = 0; at < words.length; at++) {
    const word = words[at]!;
    const name = /^--?([^-].*)$/.exec(word)?.[1];
    if (name === undefined) options.push({ name: null, value: word });
    else options.push({ name, value: WITHOUT_VALUE.has(name) ? null : (words[++at] ?? "") });
  }
  return options;
}

/** The words of some options. */
export function joinOptions(options: readonly QemuOption[]): string[] {
  return options.flatMap(({ name, value }) => [
    ...(name === null ? [] : [`-${name}`]),
    ...(value === null ? [] : [value]),
  ]);
}

/** An option as it is written, for messages: it may have come over a network, to somebody's terminal. */
export function showOption(option: QemuOption): string {
  return joinOptions([option])
    .join(" ")
    .replace(/\p{Cc}/gu, "?");
}

/** A value's parts between commas; a doubled comma is one inside a part, and stays doubled. */
export function splitValue(value: string): string[] {
  return value.match(/(?:[^,]|,,)+/g) ?? [];
}

/** The part `key=…` of a value; undefined where it has none. */
export function partOf(value: string, key: string): string | undefined {
  return splitValue(value)
    .find((part) => part.startsWith(`${key}=`))
    ?.slice(key.length + 1)
    .replaceAll(",,", ",");
}
