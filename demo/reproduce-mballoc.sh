#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Shows a bug of Debian's kernel 6.1.0-55 (6.1.192-1) in fs/ext4/mballoc.c, fixed in 6.1.192-2.
#
# __filemap_get_folio() of 6.1 returns NULL when a folio is not cached; code taken from newer
# kernels, where it returns an error pointer, asked IS_ERR(). So the first allocation from a block
# group whose buddy bitmap has left the page cache dereferences NULL. In ordinary use that is the
# kernel worker that writes dirty data back, after memory was short; here, after drop_caches.
#
# RUN THIS IN A GUEST ONLY: on a kernel with the bug the worker dies and the file system hangs.
#
#   reproduce-mballoc.sh setup          make and mount an ext4 file system, and fill a first file
#   reproduce-mballoc.sh load           write and delete files in it until "stop" (a busy writer)
#   reproduce-mballoc.sh stop           end that
#   reproduce-mballoc.sh trigger        drop the caches, write a MiB, sync: the bug
#   reproduce-mballoc.sh check          unmount, mount again, compare all data
#
# Each ends with status 0 if it did what it says. On a kernel with the bug, "trigger" ends with
# status 1 after WAIT seconds at most, because sync does not come back.

set -eu

FOLDER=${FOLDER:-/tmp/mballoc}
WAIT=${WAIT:-10}
IMAGE=$FOLDER/image
MOUNT=$FOLDER/mount

setup() {
	mkdir -p "$MOUNT"
	# Several groups (8192 blocks of 1 KiB each), so that there are buddy bitmaps to lose.
	truncate -s 64M "$IMAGE"
	mke2fs -q -F -t ext4 -b 1024 "$IMAGE"
	mount -o loop -t ext4 "$IMAGE" "$MOUNT"
	write_file first 4
	sync
}

# A file of random data, with its checksum kept outside of the file system.
write_file() {
	dd if=/dev/urandom of="$FOLDER/$1" bs=1M count="$2" 2>/dev/null
	cat "$FOLDER/$1" >"$MOUNT/$1"
	(cd "$FOLDER" && sha256sum "$1") >>"$FOLDER/sums"
	rm "$FOLDER/$1"
}

load() {
	trap 'exit 0' TERM
	rm -f "$FOLDER/stop"
	while [ ! -e "$FOLDER/stop" ]; do
		dd if=/dev/zero of="$MOUNT/busy" bs=64k count=16 conv=fsync 2>/dev/null
		rm "$MOUNT/busy"
	done
}

stop() {
	touch "$FOLDER/stop"
}

trigger() {
	oopses=$(count_oopses)
	# What was deleted keeps its buddy bitmap in memory until the journal is committed.
	sync
	echo 3 >/proc/sys/vm/drop_caches
	# In the background: with the bug, none of this ever ends.
	(write_file second 1 && sync && touch "$FOLDER/synced") &
	tenths=0
	while [ ! -e "$FOLDER/synced" ]; do
		if [ "$(count_oopses)" -gt "$oopses" ]; then
			echo "the kernel oopsed:"
			dmesg | grep -A 1 'BUG: kernel NULL pointer' | tail -n 2
			return 1
		fi
		if [ "$tenths" -ge $((WAIT * 10)) ]; then
			echo "sync did not come back within $WAIT s"
			return 1
		fi
		sleep 0.1
		tenths=$((tenths + 1))
	done
	echo "written and synced"
}

count_oopses() {
	dmesg | grep -c 'BUG: kernel NULL pointer' || true
}

check() {
	umount "$MOUNT"
	mount -o loop -t ext4 "$IMAGE" "$MOUNT"
	(cd "$MOUNT" && sha256sum -c "$FOLDER/sums")
}

case ${1:-} in
setup | load | stop | trigger | check) "$1" ;;
*)
	echo "usage: $0 setup | load | stop | trigger | check" >&2
	exit 2
	;;
esac
