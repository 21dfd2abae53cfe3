# SPDX-License-Identifier: GPL-2.0-or-later
"""``livegraft wait``."""

from livegraft.cli.running import verb
from livegraft.errors import Exit

VERB = verb(
    "wait",
    """\
Wait until a live patch's transition is complete. The transition is neither reversed nor forced.""",
    {Exit.FAILED: "not complete in time, or no such live patch is loaded"},
)
