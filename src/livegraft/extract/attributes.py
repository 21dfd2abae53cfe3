# SPDX-License-Identifier: GPL-2.0-or-later
"""What stands around a declaration's name and type: which of it holds for those who use it.

A word of a head may be a macro (``STATIC``, ``__init``). What it stands for is told by what the
preprocessor made of the head: words of the language are known here, and no name of a macro.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from difflib import SequenceMatcher
from itertools import takewhile

Item = tuple[str, ...]
"""Tokens: a word with the parentheses behind it, parentheses or braces alone, or one mark."""

_ATTRIBUTES = frozenset(("__attribute__", "__attribute"))
_LABELS = frozenset(("asm", "__asm", "__asm__"))
_STORAGE = frozenset(("static", "extern", "inline", "__inline", "__inline__"))

_OF_DEFINITION = frozenset(
    (
        *("alias", "always_inline", "artificial", "constructor", "destructor", "flatten"),
        *("externally_visible", "function_return", "gnu_inline", "ifunc", "indirect_branch"),
        *("latent_entropy", "naked", "no_icf", "no_instrument_function", "no_reorder"),
        *("no_profile_instrument_function", "no_sanitize", "no_sanitize_address"),
        *("no_sanitize_coverage", "no_sanitize_thread", "no_sanitize_undefined"),
        *("no_split_stack", "no_stack_limit", "no_stack_protector", "nocf_check", "noclone"),
        *("noinline", "noipa", "optimize", "patchable_function_entry", "retain", "section"),
        *("stack_protect", "symver", "target", "target_clones", "unused", "used", "visibility"),
        *("weak", "weakref", "zero_call_used_regs"),
    )
)
"""Attributes that say how or where something is compiled (GCC manual, "Declaring Attributes of
Functions"). Who uses it needs none of them, and some may stand at a definition only."""

_OPEN, _CLOSE = frozenset("([{"), frozenset(")]}")
_WORD = re.compile(r"\w")
_GAP = re.compile(r"(?<=\()\s+|\s+(?=[),])|(?<=\w)\s+(?=\()")
_STATIC = re.compile(r'"(?:[^"\\\n]|\\.)*"|\'(?:[^\'\\\n]|\\.)*\'|\bstatic\b')
_TOKEN = re.compile(r'(?:"(?:[^"\\\n]|\\.)*"|\'(?:[^\'\\\n]|\\.)*\'|\w+|[^\w\s])\s*')


def head_for_users(head: str, words: Sequence[str]) -> str:
    """A function's head as a declaration has it behind ``extern``.

    Args:
        head: the text of a definition's head, without comments.
        words: what the preprocessor made of it.
    """
    texts = list(_items(_TOKEN.findall(head)))
    written = [tuple(token.rstrip() for token in each) for each in texts]
    compiled = list(_items(words))
    parts: list[str] = []
    steps = SequenceMatcher(
        None, [_key(each) for each in written], [_key(each) for each in compiled], autojunk=False
    ).get_opcodes()
    for step, first, last, start, end in steps:
        if step == "equal":
            for at in range(first, last):
                parts.append(_rewritten(texts[at : at + 1], written[at : at + 1]))
        else:  # macros, and what they stand for
            parts.append(_rewritten(texts[first:last], compiled[start:end]))
    return "".join(parts)


def attributes_for_users(words: Iterable[str], name: str) -> list[str]:
    """The label and the attributes of a function or variable that its users need.

    Args:
        words: what the preprocessor made of declarations, each up to its ``;`` or body.
        name: which of the declared ones.

    Returns:
        Each as C writes it, the label first.
    """
    found: list[Item] = []
    for declaration in _split(_items(words), ";"):
        first, *more = (list(takewhile(_is_no_value, each)) for each in _split(declaration, ","))
        for part in (first, *(_common(first) + each for each in more)):
            if any(name in item for item in part if not _is_extra(item)):
                found += [item for item in part if _is_extra(item)]
    kept = dict.fromkeys(_for_users(found))
    return [_spelled(item) for item in sorted(kept, key=lambda item: item[0] in _ATTRIBUTES)]


def is_static_once(text: str, name: str) -> bool:
    """Whether a preprocessed unit declares at most one static function or variable of a name.

    Those in functions count, and what merely stands in such a declaration, as a parameter does.
    """
    count = 0
    for found in _STATIC.finditer(text):
        if found[0] == "static":
            tokens = (each[0].rstrip() for each in _TOKEN.finditer(text, found.end()))
            count += any(name in item for item in _declaration(_items(tokens)))
    return count <= 1


def _declaration(items: Iterator[Item]) -> Iterator[Item]:
    """The items up to the end of a declaration, or to the body of a function."""
    before: Item = ("",)
    has_value = False
    for item in items:
        is_head = before[-1] == ")" and not _is_extra(before) and not has_value
        if item == (";",) or (is_head and item[0] == "{"):
            return
        has_value |= not _is_no_value(item)
        yield item
        before = item


def _items(tokens: Iterable[str]) -> Iterator[Item]:
    """Tokens by what belongs together."""
    item: list[str] = []
    depth = 0
    for token in tokens:
        mark = token.rstrip()
        is_joined = mark == "(" and len(item) == 1 and _WORD.match(item[0]) is not None
        if item and not depth and not is_joined:
            yield tuple(item)
            item = []
        item.append(token)
        depth += (mark in _OPEN) - (mark in _CLOSE)
    if item:
        yield tuple(item)


def _key(item: Item) -> Item:
    """What tells two items apart; parameters may have macros in them."""
    return item if _is_extra(item) else item[:1]


def _rewritten(texts: Sequence[Item], meaning: Sequence[Item]) -> str:
    """A text, or what users need of its meaning if that is not all of it."""
    kept = list(_for_users(meaning))
    if kept == list(meaning):
        return "".join(token for text in texts for token in text)
    return "".join(f"{_spelled(each)} " for each in kept)


def _for_users(items: Iterable[Item]) -> Iterator[Item]:
    for item in items:
        if item[0] in _ATTRIBUTES and len(item) > 4:
            inner = list(_split(_items(item[3:-2]), ","))
            kept = [each for each in inner if each and _name(each[0]) not in _OF_DEFINITION]
            if kept == inner:
                yield item
            elif kept:
                middle = [token for each in kept for one in (*each, (",",)) for token in one][:-1]
                yield (*item[:3], *middle, *item[-2:])
        elif item[0] not in _STORAGE:
            yield item


def _name(item: Item) -> str:
    """An attribute's name: ``__section__`` is ``section``."""
    return item[0].removeprefix("__").removesuffix("__")


def _split(items: Iterable[Item], mark: str) -> Iterator[list[Item]]:
    part: list[Item] = []
    for item in items:
        if item == (mark,):
            yield part
            part = []
        else:
            part.append(item)
    yield part


def _spelled(item: Item) -> str:
    return _GAP.sub("", " ".join(item))


def _is_extra(item: Item) -> bool:
    """Whether it is an attribute or a label."""
    return item[0] in _ATTRIBUTES or item[0] in _LABELS


def _is_no_value(item: Item) -> bool:
    return item != ("=",)


def _common(first: list[Item]) -> list[Item]:
    """The attributes in front of the first name, which all names of a declaration have."""
    last = max((at for at, item in enumerate(first) if not _is_extra(item)), default=0)
    return [item for item in first[:last] if _is_extra(item)]
