# SPDX-License-Identifier: GPL-2.0-or-later
"""What the checks of a debugging kernel write into its log when they have found something."""

from __future__ import annotations

import re
from collections.abc import Iterable

SPLAT = re.compile(
    r"BUG:|BUG at|WARNING:|KASAN|UBSAN|Oops|general protection|Unable to handle"
    r"|possible .* detected|inconsistent lock state|suspicious RCU|sleeping function called"
    r"|ODEBUG|list_(add|del) corruption|refcount_t|bad unlock balance|held lock freed"
    r"|locks? still held|INFO: |kmemleak: .*new|kmemleak: .*disabled|scheduling while atomic"
    r"|turning off the locking|corruption|don't try to register|can not remove"
    r"|can not be loaded|stuck for|stalls? "
)


def splats(log: Iterable[str]) -> list[str]:
    """The messages that speak of a defect."""
    return [each for each in log if SPLAT.search(each)]
