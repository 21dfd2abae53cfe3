# SPDX-License-Identifier: GPL-2.0-or-later
"""The names by which a unit can come to what a fix changes in a header, told from its text alone.

Nothing is expanded. A name may be that of a macro: :mod:`livegraft.fix.words` knows the macros that
a unit expands. Where there are no such names (a variable of its own, ``#include``, a text that is
not understood) there is no answer, and each unit has to be looked at (:mod:`livegraft.fix.reach`).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import chain

from livegraft.fix.ctokens import Kind
from livegraft.fix.items import Item, items_of
from livegraft.fix.outline import outline

MANY_NAMES = 300
"""Of so many names a unit that reads the header mentions one: nobody looks further."""

_DEFINITION = re.compile(r"(?:define|undef)\s*(\w+)")
_PLAIN_WORD = re.compile(
    r"__(?:always_inline|inline|inline__|must_check|pure|attribute_const__|cold|printf|malloc"
    r"|maybe_unused|acquires|releases|must_hold|user|iomem|rcu|percpu|force|wsum|sum16|poll_t"
    r"|[su](?:8|16|32|64)|[bl]e(?:16|32|64)|kernel_\w+)"
)
"""What may stand in the head of an inline function and does not make it stay without a caller; any
other word with two underscores might (``__bpf_kfunc`` is ``__used``)."""


def affected(texts: Iterable[tuple[str, str]]) -> frozenset[str] | None:
    """The names without which nothing can come to what differs, itself or through another item of
    the changed files.

    Args:
        texts: each changed file before and after.

    Returns:
        the names, none if nothing but lines moved; None if there is no such set.
    """
    names: set[str] = set()
    everything: list[Item] = []
    for before, after in texts:
        old, new = (list(items_of(outline(text))) for text in (before, after))
        gone, come = Counter(old) - Counter(new), Counter(new) - Counter(old)
        if _without(old, gone) != _without(new, come):
            return None  # an order that may matter
        for each in chain(gone, come):
            introduced = _introduced(each)
            if introduced is None:
                return None
            names |= introduced
        everything += [*old, *come]
    return _spread(everything, names)


def _introduced(item: Item) -> frozenset[str] | None:
    """As :meth:`Item.introduces`, of a text in which macros are not expanded."""
    first = item.head[0] if item.head else None
    if first is not None and first.kind is Kind.DIRECTIVE:
        found = _DEFINITION.match(first.text)
        return frozenset((found[1],)) if found else None
    if item.body is not None:
        words = [token.text for token in item.head if token.text.startswith("__")]
        if not all(_PLAIN_WORD.fullmatch(word) for word in words):
            return None
    return item.introduces()


def _spread(items: Iterable[Item], names: Iterable[str]) -> frozenset[str] | None:
    """Names, and those of all items that depend on them; None if code is left in any case."""
    left = [(each.words(), _introduced(each)) for each in items if not _is_include(each)]
    mentioned = set(names)
    size = -1
    while size != len(mentioned):
        size = len(mentioned)
        if size > MANY_NAMES:
            return None
        for words, introduced in left:
            if introduced is None:
                if mentioned & words:
                    return None
            elif mentioned & (words - introduced):
                mentioned |= introduced
    return frozenset(mentioned)


def _is_include(item: Item) -> bool:
    return bool(item.head) and item.head[0].text.startswith("include")


def _without(items: Sequence[Item], left_out: Counter[Item]) -> list[Item]:
    left = Counter(left_out)
    kept = []
    for item in items:
        if left[item]:
            left[item] -= 1
        else:
            kept.append(item)
    return kept
