# SPDX-License-Identifier: GPL-2.0-or-later
"""``livegraft unload``."""

from livegraft.cli.running import verb
from livegraft.errors import Exit

VERB = verb(
    "unload",
    """\
Undo a live patch, wait until every task is back in the old code, and remove the module. Must be
run as root. With --all every live patch is undone, the newest first, under whichever model each
was loaded. The system is consistent once every task has changed sides; the module can go a little
later, and both times are told. 'livegraft unload livegraft_engine' removes the engine's module, or
names the patches that need it, those that are off too.""",
    {Exit.FAILED: "not unloaded; the patch is on as before, the engine is in use"},
    ("livegraft unload --all",),
)
