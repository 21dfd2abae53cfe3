# SPDX-License-Identifier: GPL-2.0-or-later
"""``livegraft load``."""

from livegraft.cli.running import verb
from livegraft.errors import Exit

VERB = verb(
    "load",
    """\
Load a live patch into the running kernel and wait until every task runs the new code. Must be run
as root.

The file is refused before the kernel sees it unless the build ID of the running kernel, and of each
module that it patches, is the one it was built for; a release string alone never suffices. It is
refused too if another user of ftrace (a kprobe with a post handler, a BPF program, another live
patcher) has one of its functions and cannot share it, and where a setting of the machine keeps it
out.

A patch that was changed since it was signed, or was signed by somebody whom this machine does not
trust, is always refused ('livegraft verify' says why). One that is not signed is loaded with a
warning, or refused where /etc/livegraft/livegraft.conf has require_signature = yes.

If the transition is not complete in time, or on Ctrl-C, it is undone and the tasks that blocked it
are named; --on-stall asks for something else. Under 'native' the load waits until no task is inside
a cold part of the patched functions, which the kernel's own check does not look at.""",
    {
        Exit.FAILED: "not loaded; whatever had begun was undone",
        Exit.REFUSED: "built for another kernel or another build of a module, or not trusted",
    },
    (
        "livegraft load --model hybrid --replace fix.ko",
        "livegraft load --timeout 10 --on-stall signal fix.ko",
    ),
)
