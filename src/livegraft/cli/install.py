# SPDX-License-Identifier: GPL-2.0-or-later
"""``livegraft install``."""

from livegraft.cli.running import verb
from livegraft.errors import Exit

VERB = verb(
    "install",
    """\
Keep a live patch in /var/lib/livegraft/patches, to be loaded at each boot of the kernel that it was
built for. It is not loaded now; 'livegraft load' does that. Must be run as root.

The file is copied with the signatures that lie beside it, completely or not at all, and takes the
place of an installed one of the same name. What 'load' would refuse because of the file, its
signatures or its options is refused here; so is a patch for another build of its kernel, as far as
that can be seen before that kernel runs.

Installed patches are loaded by the unit livegraft-boot.service, in the order in which they were
installed unless --order says otherwise. A patch with which the machine crashed in its first minutes
is not loaded at the next boot, until --again allows it.""",
    {
        Exit.FAILED: "not installed; what was installed before is as it was",
        Exit.REFUSED: "built for another build of its kernel or of a module, or not trusted",
    },
    (
        "livegraft install --model hybrid --replace fix.ko",
        "livegraft install --again livegraft_fix -k 6.1.0-55-amd64",
    ),
)
