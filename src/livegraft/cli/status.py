# SPDX-License-Identifier: GPL-2.0-or-later
"""``livegraft status``."""

from livegraft.cli.running import verb
from livegraft.errors import Exit
from livegraft.runtime.checking import MEANINGS

VERB = verb(
    "status",
    """\
Show the live patches of the running kernel, the newest first: the state of each and since when,
which fix it is (SHA-256, CVE ids), what it patches, its consistency model, whether livegraft built
it, whether a transition of it was forced, what else redirects its functions by now, and, while a
transition is under way and for root, how many tasks have changed sides and which have not. Then the
kernel's build ID, and why it calls itself tainted. First of all it says which switch keeps all live
patches out, if one does.

With --check it answers monitoring: one line with all that is not well, and the exit code of the
worst of it. A transition counts as stalled, too, if nobody knows when it began: the kernel's log
tells that, to root.""",
    {
        Exit.FAILED: "no such live patch is loaded, or this kernel has no livepatch core",
        **{code: f"--check: {meaning}" for code, meaning in MEANINGS.items() if code},
    },
    ("livegraft status livegraft_fix", "livegraft status --check --stalled-after 300"),
)
