import assert from "node:assert/strict";
import fc from "fast-check";
import { type Address, formatAddress, parseAddress, resolveAddress } from "./address.js";

describe("address", () => {
  for (const [text, address] of [
    ["tcp:10.0.0.2:4444", { kind: "tcp", host: "10.0.0.2", port: 4444 }],
    ["tcp:vm-host.example:65535", { kind: "tcp", host: "vm-host.example", port: 65535 }],
    ["tcp:[fe80::1%eth0]:7", { kind: "tcp", host: "fe80::1%eth0", port: 7 }],
    ["tcp::0", { kind: "tcp", host: "", port: 0 }],
    ["unix:/run/a b:c.sock", { kind: "unix", path: "/run/a b:c.sock" }],
    ["unix:@name", { kind: "unix", path: "@name" }],
  ] as const) {
    it(`reads ${text}, and writes it back`, () => {
      assert.deepEqual(parseAddress(text), address);
      assert.equal(formatAddress(address), text);
    });
  }

  it("takes the host 0 for every interface, as QEMU does", () => {
    assert.deepEqual(parseAddress("tcp:0:4444"), { kind: "tcp", host: "", port: 4444 });
  });

  it("reads back every address that it writes", () => {
    const port = fc.nat(65535);
    const tcp = fc
      .oneof(fc.domain(), fc.ipV4(), fc.ipV6(), fc.constant(""))
      .chain((host) => port.map((p) => [host, p]));
    const any: fc.Arbitrary<Address> = fc.oneof(
      tcp.map(([host, p]) => ({ kind: "tcp" as const, host: host as string, port: p as number })),
      fc.stringMatching(/^[@/][a-zA-Z0-9/._: -]{0,105}$/).map((path) => ({ kind: "unix" as const, path })),
    );
    fc.assert(fc.property(any, (address) => assert.deepEqual(parseAddress(formatAddress(address)), address)));
  });

  for (const text of [
    "",
    "tcp",
    "tcp:",
    "tcp:host",
    "tcp:host:",
    "tcp:host:65536",
    "tcp:host:-1",
    "tcp:host:4x",
    "tcp:::1:4444",
    "tcp:[::1]",
    "unix:",
    "udp:host:1",
    " tcp:host:1",
    "/run/a.sock",
  ]) {
    it(`refuses "${text}" and names the forms that are known`, () => {
      assert.throws(() => parseAddress(text), {
        name: "ConfigError",
        code: "ADDRESS",
        message: `address "${text}" is of no known form; write tcp:HOST:PORT, tcp:[IPV6]:PORT or unix:PATH`,
      });
    });
  }

  it("refuses a unix path longer than the system takes, counted in bytes", () => {
    assert.equal(parseAddress(`unix:${"p".repeat(107)}`).kind, "unix");
    for (const path of ["p".repeat(108), "ü".repeat(54)]) {
      assert.throws(() => parseAddress(`unix:${path}`), { code: "ADDRESS", message: /has 108 bytes, .* at most 107/ });
    }
  });
});

describe("resolving an address", () => {
  it("makes an empty host every interface to a listener, and this machine to a connector", async () => {
    const address = parseAddress("tcp::4444");
    assert.deepEqual(await resolveAddress(address, "listen"), { family: 4, host: "0.0.0.0", port: 4444 });
    assert.deepEqual(await resolveAddress(address, "connect"), { family: 4, host: "127.0.0.1", port: 4444 });
  });

  it("knows numeric hosts of both families, and looks names up", async () => {
    assert.deepEqual(await resolveAddress(parseAddress("tcp:[::1]:1"), "connect"), { family: 6, host: "::1", port: 1 });
    const local = await resolveAddress(parseAddress("tcp:localhost:1"), "connect");
    assert.ok(local.family !== 1 && ["127.0.0.1", "::1"].includes(local.host));
  });

  it("names the host that has no address", async () => {
    await assert.rejects(resolveAddress({ kind: "tcp", host: "no such host", port: 9 }, "connect"), {
      name: "SystemError",
      code: "ADDRESS_LOOKUP",
      message: /tcp:no such host:9: the host name "no such host" has no address here/,
    });
  });
});
