# SPDX-License-Identifier: GPL-2.0-or-later
"""``livegraft status``."""

from livegraft.cli.running import verb
from livegraft.errors import Exit

VERB = verb(
    "status",
    """\
Show the live patches of the running kernel, the newest first: the state of each, what it patches,
its consistency model, whether livegraft built it, whether a transition of it was forced, what else
redirects its functions by now, and, while a transition is under way and for root, how many tasks
have changed sides and which have not.""",
    {Exit.FAILED: "no such live patch is loaded, or this kernel has no livepatch core"},
    ("livegraft status livegraft_fix",),
)
