#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# Builds the Debian packages into build/deb, from a copy of what git keeps or would keep, and lets lintian look at
# them. LIVEGRAFT_OUT names another folder. The same source makes the same bytes.
set -eu
cd "$(dirname "$0")/.."
umask 022
# The packages are built by Debian's Python, whatever else is in the caller's path.
PATH=/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin
export PATH LC_ALL=C.UTF-8
unset PYTHONPATH PYTHONHOME MAKEFLAGS MFLAGS MAKELEVEL

out=${LIVEGRAFT_OUT:-$PWD/build/deb}
mkdir -p "$out"
out=$(cd "$out" && pwd)
rm -rf "$out"/livegraft "$out"/livegraft*_*.deb "$out"/livegraft_*.changes "$out"/livegraft_*.buildinfo
mkdir "$out/livegraft"
git ls-files -z --cached --others --exclude-standard --deduplicate |
	xargs -0 cp -P --parents -t "$out/livegraft" --
cd "$out/livegraft"
dpkg-buildpackage --build=binary --no-sign >../build.log 2>&1 || {
	tail -n 30 ../build.log >&2
	echo "make deb: the whole output is in $out/build.log" >&2
	exit 1
}
cd ..
rm -rf livegraft
# As root lintian drops its rights by itself where it may; it only reads.
lintian --allow-root --fail-on error,warning ./*.changes
ls -l ./*.deb
