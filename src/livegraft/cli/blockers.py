# SPDX-License-Identifier: GPL-2.0-or-later
"""``livegraft blockers``."""

from livegraft.cli.running import verb
from livegraft.errors import Exit

VERB = verb(
    "blockers",
    """\
Show each task that keeps a live patch's transition from completing: its process, the patched
function that it stands in, its stack, since when it is in the way, and what would move it. Must be
run as root.""",
    {Exit.FAILED: "no such live patch is loaded, or this kernel has no livepatch core"},
    ("livegraft blockers livegraft_fix --json",),
)
