# SPDX-License-Identifier: GPL-2.0-or-later
"""``livegraft boot``."""

from livegraft.cli.running import verb
from livegraft.errors import Exit

VERB = verb(
    "boot",
    """\
Load all live patches that are installed for the running kernel, in their order. The unit
livegraft-boot.service runs this; by hand it loads what is not loaded yet. Must be run as root.

One that cannot be loaded keeps no other one out. Before each is loaded a marker is written beside
it, and taken away when it is loaded. With --unsettled, as the unit has it, it stays until 'boot
--settle': livegraft-settle.service runs that after five minutes, and livegraft-shutdown.service
when the machine goes down in good order. A marker that an earlier boot has left tells of a crash,
and that patch is skipped ('install --again' allows it).

Nothing is loaded while live patches are switched off, by livegraft=off on the kernel's command line
or enabled = no in /etc/livegraft/livegraft.conf; that is no failure.""",
    {
        Exit.FAILED: "a patch for this kernel is not loaded, because it failed or after a crash",
        Exit.REFUSED: "others than root can change what is installed",
    },
    ("livegraft boot livegraft_fix", "livegraft boot --settle"),
)
