import assert from "node:assert/strict";
import { addCapability, dropCapability } from "./configuration-capability.js";
import { encodeConfiguration } from "./main-stream.js";
import { parseUuid } from "./multifd-init.js";

const uuid = parseUuid("01234567-89ab-cdef-0123-456789abcdef");
const configurations = [
  { machineType: "pc-q35-7.2" },
  { machineType: "pc-q35-7.2", uuid },
  { machineType: "virt-10.0", targetPageBits: 12 },
  { machineType: "virt-10.0", targetPageBits: 12, uuid },
];

describe("configuration capability", () => {
  it("goes between the subsections that are there already, once", () => {
    const capabilities = ["x-ignore-shared"];
    for (const configuration of configurations) {
      const extended = addCapability(encodeConfiguration(configuration), "x-ignore-shared");
      assert.deepEqual(extended, encodeConfiguration({ ...configuration, capabilities }));
      assert.deepEqual(addCapability(extended, "x-ignore-shared"), extended);
      assert.deepEqual(
        addCapability(extended, "mapped-ram"),
        encodeConfiguration({ ...configuration, capabilities: [...capabilities, "mapped-ram"] }),
      );
    }
  });

  it("is dropped without a trace, and leaves the others listed", () => {
    for (const configuration of configurations) {
      const bare = encodeConfiguration(configuration);
      assert.deepEqual(dropCapability(addCapability(bare, "mapped-ram"), "mapped-ram"), bare);
      assert.deepEqual(dropCapability(bare, "mapped-ram"), bare);
      const one = encodeConfiguration({ ...configuration, capabilities: ["x-ignore-shared"] });
      assert.deepEqual(dropCapability(addCapability(one, "mapped-ram"), "mapped-ram"), one);
    }
  });
});
