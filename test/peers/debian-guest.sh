#!/bin/sh
# Makes the real guest of the slow tests: Debian's kernel and a small initramfs, in .peers/debian.
#
#   vmlinuz      out of the package that linux-image-amd64 stands for
#   initrd.img   busybox, the kernel's virtio drivers, and the init below
#
# The packages come through apt into .peers/debian/deb and are unpacked there, not
# installed: this needs no root. Once done it is at once done again, until this file changes.
set -eu
made=$(cksum <"$0")
cd "$(dirname "$0")/../.."

GUEST=.peers/debian
DONE=$GUEST/done

say() { printf 'peers: %s\n' "$*" >&2; }
fail() {
  say "$@"
  exit 1
}

[ "$(cat "$DONE" 2>/dev/null)" != "$made" ] || exit 0
command -v apt-get >/dev/null || fail "this is no Debian-like system: put a vmlinuz and an initrd.img into $GUEST by hand"

kernel=$(apt-cache depends linux-image-amd64 | sed -n 's/^ *Depends: \(linux-image-[0-9].*\)/\1/p' | head -n 1)
[ -n "$kernel" ] || fail "apt knows no linux-image-amd64; run apt-get update and try again"

say "making $GUEST out of $kernel and busybox-static"
rm -rf "$GUEST/root" "$GUEST/initramfs" "$DONE"
mkdir -p "$GUEST/deb" "$GUEST/root" "$GUEST/initramfs"
(cd "$GUEST/deb" && rm -f ./*.deb && apt-get download -q "$kernel" busybox-static >&2)
for package in "$GUEST"/deb/*.deb; do dpkg-deb -x "$package" "$GUEST/root"; done

initramfs=$GUEST/initramfs
mkdir -p "$initramfs/bin" "$initramfs/modules" "$initramfs/proc" "$initramfs/sys" "$initramfs/dev" "$initramfs/tmp"
cp "$GUEST/root/bin/busybox" "$initramfs/bin/busybox"

# Each after those that it needs.
modules="virtio_ring virtio virtio_pci_modern_dev virtio_pci_legacy_dev virtio_pci virtio_blk failover net_failover virtio_net
  virtio-rng virtio_balloon"
for module in $modules; do
  file=$(find "$GUEST/root/lib/modules" -name "$module.ko")
  [ -n "$file" ] || fail "$kernel has no module $module"
  cp "$file" "$initramfs/modules/"
done

{
  echo '#!/bin/busybox sh'
  echo '/bin/busybox --install -s /bin'
  echo 'export PATH=/bin'
  echo 'mount -t proc proc /proc; mount -t sysfs sysfs /sys; mount -t devtmpfs dev /dev'
  for module in $modules; do echo "insmod /modules/$module.ko"; done
  echo 'ifconfig eth0 10.0.2.15'
  # What has to go on counting: a process of its own, seen through a file.
  echo '(i=0; while :; do i=$((i + 1)); echo $i >/tmp/counter; done) &'
  echo 'echo the guest is up'
  echo 'exec setsid cttyhack sh'
} >"$initramfs/init"
chmod +x "$initramfs/init"
ln -sf busybox "$initramfs/bin/sh"

(cd "$initramfs" && find . | ./bin/busybox cpio -o -H newc | gzip) >"$GUEST/initrd.img"
cp "$GUEST"/root/boot/vmlinuz-* "$GUEST/vmlinuz"
rm -rf "$GUEST/root" "$initramfs"
echo "$made" >"$DONE"
