#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# Installs what livegraft needs: Debian packages that are missing (as root), and a virtual environment
# from the lock file. Further lists of packages may be given. Idempotent, works offline when nothing is missing, safe against two runs at once.
set -eu
cd "$(dirname "$0")/.."

exec 9>setup/.lock
flock -n 9 || { echo "setup: waiting for another run" >&2; flock 9; }

wanted=$(grep -hv '^#' setup/debian-packages "$@")
missing=
for package in $wanted; do
	case $(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true) in
	installed) ;;
	*) missing="$missing $package" ;;
	esac
done
# The package lists are needed by 'livegraft prepare' too: it finds kernels in them.
lists=$(find /var/lib/apt/lists -maxdepth 1 -name '*_Packages*' -print -quit 2>/dev/null || true)
if [ -n "$missing" ] || [ -z "$lists" ]; then
	if [ "$(id -u)" != 0 ]; then
		echo "setup: as root: apt-get update && apt-get install$missing" >&2
		exit 1
	fi
	echo "setup: installing Debian packages:$missing" >&2
	# apt draws its bar on a terminal; elsewhere a line a package is enough.
	apt-get update -q=1 -o DPkg::Lock::Timeout=300 >&2
	# shellcheck disable=SC2086 # a list of package names
	[ -z "$missing" ] || DEBIAN_FRONTEND=noninteractive apt-get install -y -q=1 \
		--no-install-recommends -o DPkg::Lock::Timeout=300 -o Dpkg::Progress-Fancy=1 $missing >&2
fi

stamp=.venv/.livegraft-installed
if [ ! -f "$stamp" ] || [ requirements.lock -nt "$stamp" ] || [ pyproject.toml -nt "$stamp" ]; then
	echo "setup: making the virtual environment" >&2
	# An interrupted venv has python but not yet pip.
	.venv/bin/python -m pip --version >/dev/null 2>&1 || python3 -m venv --clear .venv
	.venv/bin/python -m pip install --disable-pip-version-check --require-hashes -r requirements.lock |
		sed -n 's/^Collecting \([^ ]*\).*/setup: \1/p' >&2
	.venv/bin/python -m pip install -q --disable-pip-version-check --require-hashes -r requirements.lock
	.venv/bin/python -m pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch "$stamp"
fi
echo "setup: .venv/bin/livegraft is ready" >&2
