# SPDX-License-Identifier: GPL-2.0-or-later
"""``livegraft uninstall``."""

from livegraft.cli.running import verb
from livegraft.errors import Exit

VERB = verb(
    "uninstall",
    """\
Keep a live patch no more: it will not be loaded at the next boot. If it is loaded it stays so;
'livegraft unload' takes it out of the running kernel. Must be run as root.""",
    {
        Exit.FAILED: "it is not installed, or could not be removed",
        Exit.REFUSED: "others than root can change what is installed",
    },
    ("livegraft uninstall livegraft_fix -k 6.1.0-55-amd64",),
)
