# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=bash
#
# Goes at the end of the kernel's own tools/testing/selftests/livepatch/functions.sh in the guest:
# live patches come and go by livegraft's runtime. What a test expects in the kernel's log stays as it
# is, so the lines that functions.sh itself writes there are written here as well.
#
# Module parameters cannot be given to the runtime: a patch that gets any is loaded by functions.sh,
# and so is one that is expected to be refused, for the runtime would refuse it before the kernel.

eval "undriven_$(declare -f load_lp)"
eval "undriven_$(declare -f load_lp_nowait)"

# runtime(words) - run a verb of the runtime; each success is counted in /root/driven
function runtime() {
	local said

	said=$(python3 -m livegraft.runtime "$@" 2>&1) || die "livegraft $*: $said"
	echo "$*" >> /root/driven
}

# load_by_runtime(modname, words) - load a live patch
function load_by_runtime() {
	local mod="$1"; shift

	if [[ -f "test_modules/$mod.ko" ]]; then
		log "% insmod test_modules/$mod.ko"
		runtime load --foreign "$@" "test_modules/$mod.ko"
	else
		log "% modprobe $mod"
		runtime load --foreign "$@" "$(modinfo -n "$mod")"
	fi
}

function load_lp() {
	if [[ $# -gt 1 ]]; then
		undriven_load_lp "$@"
	else
		load_by_runtime "$1"
	fi
}

function load_lp_nowait() {
	if [[ $# -gt 1 ]]; then
		undriven_load_lp_nowait "$@"
	else
		load_by_runtime "$1" --timeout 0.1 --on-stall wait
	fi
}

# The runtime removes the module as well.
function disable_lp() {
	log "% echo 0 > /sys/kernel/livepatch/$1/enabled"
	runtime unload "$1"
}

function unload_lp() {
	log "% rmmod $1"
	if [[ -e "/sys/module/$1" ]]; then
		runtime unload "$1"
	fi
}
