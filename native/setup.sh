#!/bin/sh
# Makes sure of what the C library is built with: cc, make, zlib, zstd, lz4, ISA-L, and clang-format for `npm run check`.
# Does nothing, quickly, when nothing is missing; otherwise installs by apt where root or sudo without a password
# allows, or prints the line to type and fails.
set -u

missing=
want() { missing="$missing $1"; }
has_command() { command -v "$1" >/dev/null 2>&1; }
# A header counts when the compiler finds it, wherever it lies.
has_header() { printf '#include <%s>\n' "$1" | cc -E -x c - >/dev/null 2>&1; }

# libc6-dev: a compiler without the C library's headers compiles nothing.
if has_command cc && has_header stdlib.h; then
  has_header zstd.h || want libzstd-dev
  has_header zlib.h || want zlib1g-dev
  has_header isa-l.h || want libisal-dev
  has_header lz4.h || want liblz4-dev
else
  want gcc
  want libc6-dev
  want libzstd-dev
  want zlib1g-dev
  want libisal-dev
  want liblz4-dev
fi
has_command make || want make
has_command clang-format || want clang-format

[ -n "$missing" ] || exit 0

if ! has_command apt-get; then
  echo "multifd: this machine lacks (Debian's names):$missing" >&2
  echo "multifd: install a C compiler, make, clang-format and the headers of zlib, zstd, lz4 and ISA-L, then run this again" >&2
  exit 1
fi

if [ "$(id -u)" -eq 0 ]; then
  as_root=
elif has_command sudo && sudo -n true 2>/dev/null; then
  as_root="sudo -n"
else
  echo "multifd: system packages are missing; type:" >&2
  echo "  sudo apt-get update && sudo apt-get install -y --no-install-recommends$missing" >&2
  exit 1
fi

echo "multifd: installing$missing" >&2
# Unquoted on purpose: both hold words. apt's own text goes to stderr, and nothing it starts may ask a question.
$as_root apt-get update -q >&2 &&
  $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $missing >&2 || {
  echo "multifd: apt could not install:$missing" >&2
  exit 1
}
