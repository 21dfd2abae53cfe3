# SPDX-License-Identifier: GPL-2.0-or-later
"""``livegraft models``."""

from livegraft.cli.running import verb
from livegraft.errors import Exit

VERB = verb(
    "models",
    """\
Show the consistency models: whether this machine has each, why not, and what it guarantees: when a
task may change sides, what changes at once, and who can still see both versions. 'native' is the
kernel's own livepatch core; the others need the engine ('livegraft engine build').""",
    {Exit.FAILED: "failed"},
)
