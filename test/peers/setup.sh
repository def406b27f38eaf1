#!/bin/sh
# Installs the peers that tests run against, once; at once done when they are there.
#
#   QEMU 7.2    this system's own packages (Debian bookworm has 7.2)
#   QEMU 11.1, virtiofsd, passt
#               a tree of a newer Debian in .peers/forky, run through its own loader
#   testpmd     this system's own packages: DPDK with its vhost-user driver
#   binutils    assembles the boot guest
#   openssl     makes certificates for both ends
#   chromium    shows the bench's report
#
# Needs root or a sudo that asks for no password, and then only for what is
# missing; without either it prints what to type and fails. The tree comes from the
# mirror that apt uses here, or from MULTIFD_DEBIAN_MIRROR.
set -eu
cd "$(dirname "$0")/../.."

PEERS=.peers
FORKY=$PEERS/forky
# Beside the tree, for debootstrap wants the tree empty; an interrupted run leaves none.
FORKY_DONE=$PEERS/forky.done
# vhost-user back-ends that this system's Debian lacks, or has too old.
FORKY_BACK_ENDS="virtiofsd passt"
FORKY_LIBRARIES=$FORKY/usr/lib/x86_64-linux-gnu

say() { printf 'peers: %s\n' "$*" >&2; }
fail() {
  say "$@"
  exit 1
}

if [ "$(id -u)" -eq 0 ]; then
  as_root() { "$@"; }
elif sudo -n true 2>/dev/null; then
  as_root() { sudo "$@"; }
else
  as_root() { fail "this needs root; type:  sudo $*   and then again:  sh test/peers/setup.sh"; }
fi

# install_packages PACKAGE...: refreshes apt's lists only if it does not find a package without.
install_packages() {
  command -v apt-get >/dev/null || fail "this is no Debian-like system; install by hand: $*"
  say "installing $*"
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "$@" >&2 && return
  as_root apt-get update -q >&2
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "$@" >&2
}

forky_qemu_answers() {
  [ "$("$FORKY_LIBRARIES/ld-linux-x86-64.so.2" --library-path "$FORKY_LIBRARIES" \
    "$FORKY/usr/bin/qemu-system-x86_64" --version 2>/dev/null | sed -n 's/.*version \([0-9]*\.[0-9]*\)\..*/\1/p')" = 11.1 ]
}

# What apt fetched its lists from; before its first update, what its sources say, in either of their two forms.
debian_mirror() {
  if [ -n "${MULTIFD_DEBIAN_MIRROR:-}" ]; then
    echo "$MULTIFD_DEBIAN_MIRROR"
    return
  fi
  {
    # shellcheck disable=SC2016 # the dollars are apt's
    apt-get indextargets --format '$(ORIGIN) $(CODENAME) $(REPO_URI)' 'Created-By: Packages' 2>/dev/null |
      awk '$1 == "Debian" && $2 !~ /-/ { print $3 }'
    if grep -q '^ID=debian$' /etc/os-release 2>/dev/null; then
      cat /etc/apt/sources.list /etc/apt/sources.list.d/*.list 2>/dev/null |
        sed -n 's/^deb  *\(\[[^]]*\] *\)\{0,1\}\([^ ]*\)  *\([^ ]*\).*/\3 \2/p' | awk '$1 !~ /-|\// { print $2 }'
      for sources in /etc/apt/sources.list.d/*.sources; do
        [ -e "$sources" ] || continue
        awk '
          function flush() { if (suite != "" && suite !~ /-|\// && off == 0) print uri; uri = suite = ""; off = 0 }
          /^[ \t]*$/ { flush() }
          tolower($1) == "uris:" { uri = $2 }
          tolower($1) == "suites:" { suite = $2 }
          tolower($1) == "enabled:" && tolower($2) == "no" { off = 1 }
          END { flush() }' "$sources"
      done
    fi
  } | grep -E '^(https?|file):' | head -n 1
}

# debootstrap fetches by itself and knows nothing of apt's proxy.
inherit_apt_proxy() {
  [ -n "${http_proxy:-}" ] && return
  proxy=
  eval "$(apt-config shell proxy Acquire::http::Proxy)"
  [ -z "$proxy" ] || [ "$proxy" = DIRECT ] || export http_proxy="$proxy"
}

bootstrap_forky() {
  mirror=$(debian_mirror)
  [ -n "$mirror" ] || fail "apt names no Debian mirror here; set MULTIFD_DEBIAN_MIRROR to the URL of one and try again"
  inherit_apt_proxy
  say "making $FORKY out of $mirror (about a minute)"
  for mounted in proc sys dev/pts dev; do
    mountpoint -q "$FORKY/$mounted" 2>/dev/null && as_root umount "$FORKY/$mounted"
  done
  [ ! -e "$FORKY" ] || as_root rm -rf --one-file-system "$FORKY"
  mkdir -p "$PEERS"
  # Debootstrap of bookworm has no script for forky, and sid's fits: hence the last word.
  as_root env ${http_proxy:+http_proxy="$http_proxy"} debootstrap --variant=minbase \
    --include="qemu-system-x86,qemu-utils,$(echo $FORKY_BACK_ENDS | tr ' ' ,)" forky "$FORKY" "$mirror" sid >"$PEERS/forky.log" 2>&1 ||
    fail "debootstrap failed: $(tail -n 3 "$PEERS/forky.log"); the whole story is in $PEERS/forky.log"
  forky_qemu_answers || fail "the QEMU in $FORKY does not answer as 11.1; forky may have moved on"
  : >"$FORKY_DONE"
}

# A tree made before its back-ends were wanted gets them by its own apt.
complete_forky() {
  [ -x "$FORKY/usr/libexec/virtiofsd" ] && [ -x "$FORKY/usr/bin/passt" ] && return
  say "installing $FORKY_BACK_ENDS in $FORKY"
  as_root chroot "$FORKY" apt-get update -q >&2
  # shellcheck disable=SC2086 # one word per package
  as_root chroot "$FORKY" env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $FORKY_BACK_ENDS >&2 ||
    fail "apt failed in $FORKY; remove that tree and run this again"
}

wanted=
command -v qemu-system-x86_64 >/dev/null || wanted="$wanted qemu-system-x86"
command -v qemu-img >/dev/null || wanted="$wanted qemu-utils"
command -v qemu-storage-daemon >/dev/null || wanted="$wanted qemu-system-common"
command -v dpdk-testpmd >/dev/null || wanted="$wanted dpdk-dev"
for driver in net_vhost mempool_ring; do
  ls /usr/lib/*/dpdk/pmds-*/librte_"$driver".so >/dev/null 2>&1 && continue
  case $driver in
  net_vhost) wanted="$wanted librte-net-vhost23" ;;
  mempool_ring) wanted="$wanted librte-mempool-ring23" ;;
  esac
done
command -v openssl >/dev/null || wanted="$wanted openssl"
command -v chromium-headless-shell >/dev/null || command -v chromium >/dev/null || wanted="$wanted chromium-headless-shell"
for tool in as ld objcopy; do
  command -v "$tool" >/dev/null || wanted="$wanted binutils"
done
if [ ! -e "$FORKY_DONE" ]; then
  # A tree made by hand counts too: debootstrap removes its folder there when it is through.
  if [ ! -e "$FORKY/debootstrap" ] && forky_qemu_answers; then
    : >"$FORKY_DONE"
  else
    [ -x /usr/sbin/debootstrap ] || wanted="$wanted debootstrap"
  fi
fi
# shellcheck disable=SC2086 # one word per package
[ -z "$wanted" ] || install_packages $wanted
[ -e "$FORKY_DONE" ] || bootstrap_forky
complete_forky

case $(qemu-system-x86_64 --version) in
*" version 7.2."*) ;;
*) say "this system's QEMU is not 7.2, which Debian bookworm has; tests that need 7.2 will fail by name" ;;
esac
