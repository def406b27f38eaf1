import assert from "node:assert/strict";
import { adjustOptions, type OptionTerms } from "./adjusted-options.js";
import type { HostView } from "./host-view.js";
import { joinOptions, splitCommandLine } from "./qemu-options.js";

const nothing: HostView = { isBound: () => false, isFile: () => false };
const terms: OptionTerms = { monitor: "/m", ramFiles: new Map(), replacements: new Map(), machineType: null };
const RAM = "memory-backend-file,id=ram,size=4G,mem-path=/dev/shm/a,share=on";
const OWN = ["-incoming", "defer", "-qmp", "unix:/m"];

function adjust(words: readonly string[], wishes: Partial<OptionTerms> = {}, host: Partial<HostView> = {}) {
  const { options, changes } = adjustOptions(
    splitCommandLine(["qemu-system-x86_64", ...words]).options,
    { ...terms, ...wishes },
    { ...nothing, ...host },
  );
  assert.deepEqual(joinOptions(options).slice(-4), OWN);
  return { words: joinOptions(options).slice(0, -4), changes };
}

describe("a command line that is to start a QEMU for a guest to come", () => {
  it("keeps machine, devices and disks, and takes a monitor of our own", () => {
    const words = ["-machine", "pc", "-S", "-device", "virtio-rng-pci", "-append", "root=x incoming=y", "disk.img"];
    assert.deepEqual(adjust(words), { words, changes: [] });
  });

  it("leaves out what only the source's was for, and says so", () => {
    const { words, changes } = adjust(["-incoming", "tcp::1", "-daemonize", "-loadvm", "x", "-m", "1G"]);
    assert.deepEqual(words, ["-m", "1G"]);
    assert.equal(changes.length, 3);
    assert.match(changes[0] ?? "", /^-incoming tcp::1 is left out/);
  });

  it("gives RAM files of its own, in either way of writing a backend", () => {
    const ramFiles = new Map([["ram", "/dev/shm/b,c"]]);
    assert.deepEqual(adjust(["-object", RAM], { ramFiles }).words, [
      "-object",
      "memory-backend-file,id=ram,size=4G,mem-path=/dev/shm/b,,c,share=on",
    ]);
    const json = { "qom-type": "memory-backend-file", id: "ram", size: 4096, "mem-path": "/dev/shm/a", share: true };
    const { words, changes } = adjust(["-object", JSON.stringify(json)], { ramFiles });
    assert.deepEqual(JSON.parse(words[1] ?? ""), { ...json, "mem-path": "/dev/shm/b,c" });
    assert.deepEqual(changes, ['RAM block "ram" lies in /dev/shm/b,c instead of /dev/shm/a']);
  });

  it("names the machine as the source's QEMU knows it, where it had an alias or none", () => {
    const named = (...words: string[]) => adjust(words, { machineType: "pc-q35-7.2" }).words;
    assert.deepEqual(named("-machine", "q35,memory-backend=ram"), ["-machine", "type=pc-q35-7.2,memory-backend=ram"]);
    assert.deepEqual(named("-M", "usb=off,type=q35"), ["-M", "usb=off,type=pc-q35-7.2"]);
    assert.deepEqual(named("-machine", "usb=off"), ["-machine", "usb=off", "-machine", "type=pc-q35-7.2"]);
    assert.deepEqual(named("-machine", "pc-q35-7.2"), ["-machine", "pc-q35-7.2"]);
  });

  it("replaces text between separators only", () => {
    const replacements = new Map([
      ["/run/a", "/run/b"],
      ["tcp::22-:22", "tcp::23-:22"],
      [":1", ":2"],
    ]);
    const words = ["-serial", "file:/run/a", "-chardev", "socket,id=c,path=/run/a,server=on,wait=off", "-D", "/run/ab"];
    const net = ["-netdev", "user,id=n,hostfwd=tcp::22-:22", "-vnc", ":1"];
    assert.deepEqual(adjust([...words, ...net], { replacements }).words, [
      ...["-serial", "file:/run/b", "-chardev", "socket,id=c,path=/run/b,server=on,wait=off", "-D", "/run/ab"],
      ...["-netdev", "user,id=n,hostfwd=tcp::23-:22", "-vnc", ":2"],
    ]);
    assert.throws(() => adjust(["-m", "1G"], { replacements }), { code: "REPLACEMENT_UNUSED" });
  });

  it("has no server socket that waits for somebody before QEMU starts", () => {
    assert.deepEqual(adjust(["-qmp", "unix:/q,server=on", "-serial", "tcp::5,server"]).words, [
      ...["-qmp", "unix:/q,server=on,wait=off", "-serial", "tcp::5,server,nowait"],
    ]);
  });

  const bound: Partial<HostView> = { isBound: (path) => path === "/run/x", isFile: (path) => path === "/run/f" };
  const refused: readonly [what: string, words: readonly string[], code: string, shown?: string][] = [
    ["a monitor socket that somebody has", ["-qmp", "unix:/run/x,server=on,wait=off"], "SOCKET_IN_USE"],
    ["a muxed one", ["-serial", "mon:unix:/run/x,server=on"], "SOCKET_IN_USE"],
    ["a character device's", ["-chardev", "socket,id=a,path=/run/x,server=on"], "SOCKET_IN_USE"],
    ["a VNC socket", ["-vnc", "unix:/run/x"], "SOCKET_IN_USE"],
    ["a network's", ["-netdev", "stream,id=n,server=on,addr.type=unix,addr.path=/run/x"], "SOCKET_IN_USE"],
    ["a serial port's file that is there", ["-serial", "file:/run/f"], "FILE_IN_USE"],
    ["a log that is there", ["-D", "/run/f"], "FILE_IN_USE"],
    ["a character device's log", ["-chardev", "null,id=a,logfile=/run/f"], "FILE_IN_USE"],
    ["RAM that another has", ["-object", RAM.replace("/dev/shm/a", "/run/f")], "RAM_FILE_IN_USE", "/run/f"],
    ["a descriptor that somebody handed over", ["-netdev", "tap,id=n,fd=3"], "LINE_UNFIT"],
    ["a set of them", ["-add-fd", "fd=3,set=1"], "LINE_UNFIT"],
    ["a start in two steps", ["-preconfig"], "LINE_UNFIT"],
  ];
  for (const [what, words, code, shown = words.at(-1) ?? ""] of refused) {
    it(`is refused for ${what}, by name`, () => {
      assert.throws(
        () => adjust(words, {}, bound),
        (error: Error & { code?: string }) => error.code === code && error.message.includes(shown),
      );
    });
  }

  it("may connect to sockets, and append to files, that are there", () => {
    const words = ["-chardev", "socket,id=a,path=/run/x", "-chardev", "file,id=b,path=/run/f,append=on"];
    assert.deepEqual(adjust(words, {}, bound).words, words);
  });

  it("is refused where it has no such RAM block", () => {
    assert.throws(() => adjust(["-object", RAM], { ramFiles: new Map([["pc.ram", "/x"]]) }), {
      code: "RAM_BLOCK_UNKNOWN",
      message: /no memory-backend-file "pc\.ram"; it has "ram"/,
    });
  });
});
