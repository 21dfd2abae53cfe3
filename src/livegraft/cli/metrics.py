# SPDX-License-Identifier: GPL-2.0-or-later
"""``livegraft metrics``."""

from livegraft.cli.running import verb
from livegraft.errors import Exit

VERB = verb(
    "metrics",
    """\
Write the live patches of the running kernel as metrics in Prometheus' text format: the patches,
their states and since when, the fixes that are live, tasks in a transition, whether what is
installed is loaded, what 'livegraft status --check' finds, and the kernel's taint flags. A file is
replaced as a whole. The timer livegraft-metrics.timer writes one for the node exporter.""",
    {Exit.FAILED: "the file cannot be written, or this kernel has no livepatch core"},
    ("livegraft metrics",),
)
