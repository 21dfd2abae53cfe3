# SPDX-License-Identifier: GPL-2.0-or-later
"""``livegraft history``."""

from livegraft.cli.running import verb
from livegraft.errors import Exit

VERB = verb(
    "history",
    """\
Show what was loaded and unloaded on this machine, the oldest first: when, by whom, under which
model, what became of it and how long it took, who had signed the patch, which fix it is, and which
older patches it has replaced ('load --replace'). Each load and unload of a patch leaves such a
record in the journal, also one that was refused or undone; this reads those that root has left, for
as long as the journal keeps them.""",
    {Exit.FAILED: "there is no journal, or this user may not read it"},
    ("livegraft history --json",),
)
