/**
 * What this machine offers a migration: Node, the C library and its codecs, kernel features, memory.
 */
import { accessSync, constants, readFileSync, statfsSync } from "node:fs";
import { trackingRemedy } from "@multifd/engine";
import { nativeFeatures, probeTracking } from "@multifd/native";
import { formatBytes } from "../quantities.js";
import { type Finding, found, missing, required } from "./findings.js";

const NODE_MIN = [20, 19] as const;

export function examineMachine(): Finding[] {
  return [node(), ...library(), hugePages(), sharedMemory(), kvm()];
}

function node(): Finding {
  const [major = 0, minor = 0] = process.versions.node.split(".").map(Number);
  const isNewEnough = major > NODE_MIN[0] || (major === NODE_MIN[0] && minor >= NODE_MIN[1]);
  const version = `${process.versions.node} on ${process.arch}`;
  if (isNewEnough) return required(found("Node.js", version));
  return required(missing("Node.js", version, `install ${NODE_MIN.join(".")} or newer`));
}

function library(): Finding[] {
  try {
    return [required(found("C library", "loaded")), ...codecs(), tracking()];
  } catch (error) {
    return [required(missing("C library", (error as Error).message, "npm run build"))];
  }
}

function codecs(): Finding[] {
  const features = nativeFeatures();
  const scan = features.avx512 ? "AVX-512" : features.avx2 ? "AVX2" : "scalar";
  return [
    found("zero scan", scan),
    features.isal
      ? found("zlib", "ISA-L")
      : missing(
          "zlib",
          "zlib alone: right, but some ten times slower at level 1",
          "install libisal-dev, then npm run build",
        ),
    features.zstd
      ? found("zstd", "libzstd")
      : missing("zstd", "no zstd migrations", "install libzstd-dev, then npm run build"),
    features.lz4
      ? found("lz4", "liblz4")
      : missing("lz4", "no lz4 migrations between two multifd", "install liblz4-dev, then npm run build"),
  ];
}

function tracking(): Finding {
  const probe = probeTracking();
  if (probe.ok) return found("dirty tracking", "userfaultfd write-protect-async with PAGEMAP_SCAN");
  return missing("dirty tracking", "live guests cannot be migrated from here, stopped ones can", trackingRemedy(probe));
}

function hugePages(): Finding {
  const number = (name: string) =>
    Number(readFileSync(`/sys/kernel/mm/hugepages/hugepages-2048kB/${name}`, "utf8").trim());
  try {
    return found("huge pages", `${number("free_hugepages")} of ${number("nr_hugepages")} pages of 2 MiB free`);
  } catch {
    return found("huge pages", "this kernel offers none of 2 MiB");
  }
}

function sharedMemory(): Finding {
  try {
    const { bavail, bsize } = statfsSync("/dev/shm");
    return found("/dev/shm", `${formatBytes(bavail * bsize)} free`);
  } catch {
    return missing("/dev/shm", "no place for RAM files that a VM can map", "mount a tmpfs there");
  }
}

function kvm(): Finding {
  try {
    accessSync("/dev/kvm", constants.R_OK | constants.W_OK);
    return found("/dev/kvm", "usable");
  } catch {
    return missing(
      "/dev/kvm",
      "VMs run by emulation here",
      "load the kvm module, and join the group that owns /dev/kvm",
    );
  }
}
