# SPDX-License-Identifier: GPL-2.0-or-later
"""``livegraft forecast``."""

from livegraft.cli.running import verb
from livegraft.errors import Exit

VERB = verb(
    "forecast",
    """\
Look at the stacks of all tasks for some seconds, and say for each consistency model how likely and
how soon a transition of this live patch would be complete, and which tasks would be in its way. The
patch is read, not loaded: nothing is changed. Must be run as root.

What was seen is played through from every moment of the first half of the looks: 'complete in 80%
of the cases' are the moments from which the rest of the looks saw the end. A function's cold parts
count as the function.""",
    {Exit.FAILED: "not root, or the file is not a live patch of livegraft"},
    ("livegraft forecast fix.ko --seconds 30",),
)
