# SPDX-License-Identifier: GPL-2.0-or-later
"""``livegraft list``."""

from livegraft.cli.running import verb
from livegraft.errors import Exit

VERB = verb(
    "list",
    """\
Show the installed live patches, by kernel and in the order in which they are loaded, and what each
waits for: it is loaded, or waits for the next boot, or for a boot of its kernel; it is obsolete,
because that kernel is older than the running one, another build of the same name, or installed no
more; it is not loaded any more because the machine crashed with it; it is damaged. An obsolete one
is left alone, for a boot of its kernel.""",
    {Exit.REFUSED: "others than root can change what is installed"},
)
