# SPDX-License-Identifier: GPL-2.0-or-later
"""The functions and declarations of a preprocessed text, and the names that each introduces."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from livegraft.fix.ctokens import Kind, Token
from livegraft.fix.outline import BODY, Outline

_WORD = re.compile(r"\w+")
_LITERAL = re.compile(r"""\"(?:[^\"\\]|\\.)*\"|'(?:[^'\\]|\\.)*'""")
_TAGGED = frozenset(("struct", "union", "enum"))
_ASSEMBLY = frozenset(("asm", "__asm", "__asm__"))
_ATTRIBUTE = frozenset(("__attribute__", "__attribute"))
_NO_NAMES = frozenset(
    ("typeof", "__typeof", "__typeof__", "typeof_unqual", "__typeof_unqual__", "_Alignas")
)


@dataclass(frozen=True, slots=True)
class Item:
    """A function or declaration at the top level of a file.

    Args:
        head: its tokens, those of a function in front of its body.
        body: the function's; None of a declaration.
        name: the function's.
    """

    head: tuple[Token, ...]
    body: tuple[Token, ...] | None = None
    name: str = ""

    def words(self) -> frozenset[str]:
        """All words in it."""
        found = (_WORD.findall(token.text) for token in (*self.head, *(self.body or ())))
        return frozenset(word for words in found for word in words)

    def introduces(self) -> frozenset[str] | None:
        """The names without which nothing can come to it, if it leaves nothing in an object by
        itself; None if it may, or if that is not clear."""
        if self.head and self.head[0].kind is Kind.DIRECTIVE:
            return None
        words = [token.text for token in self.head]
        if self.body is not None:
            return frozenset((self.name,)) if _vanishes(words) else None
        if words == [";"]:
            return frozenset()
        plain = _without_attributes(words)
        return _of_type(plain) if "{" in plain else _declared(plain)


def chunks_of(text: str) -> list[str]:
    """A preprocessed text in parts of one item or a few, without blank lines; they are cheap to
    tell from one another. What is not balanced stays in one part."""
    chunks: list[str] = []
    pending: list[str] = []
    depth = 0
    for line in text.splitlines():
        plain = line.strip()
        if not plain:
            continue
        pending.append(plain)
        code = _LITERAL.sub("", plain) if '"' in plain or "'" in plain else plain
        for opening, closing in ("()", "[]", "{}"):
            depth += code.count(opening) - code.count(closing)
        if depth == 0 and code.endswith((";", "}")):
            chunks.append("\n".join(pending))
            pending = []
    return [*chunks, "\n".join(pending)] if pending else chunks


def items_of(text: Outline) -> Iterator[Item]:
    """What a file consists of, in order."""
    functions = iter(text.functions)
    pending: list[Token] = []
    depth = 0
    for token in text.skeleton:
        if token is BODY:
            function = next(functions)
            yield Item(tuple(pending), function.body, function.name)
            pending = []
        elif token.kind is Kind.DIRECTIVE:
            yield Item((token,))
        else:
            pending.append(token)
            if token.kind is Kind.MARK:
                depth += (token.text in ("(", "[", "{")) - (token.text in (")", "]", "}"))
                if token.text == ";" and depth == 0:
                    yield Item(tuple(pending))
                    pending = []
    if pending:
        yield Item(tuple(pending))


def _vanishes(head: Sequence[str]) -> bool:
    """Whether nothing is left of a function where nobody calls it."""
    words = {word for text in head for word in _WORD.findall(text)}
    return {"static", "inline"} <= words and words.isdisjoint(("__used__", "used"))


def _without_attributes(words: Sequence[str]) -> list[str]:
    kept: list[str] = []
    depth = 0
    inside = False
    for word in words:
        if word in _ATTRIBUTE and not inside:
            inside = True
        elif inside:
            depth += (word == "(") - (word == ")")
            inside = depth > 0
        else:
            kept.append(word)
    return kept


def _declared(words: Sequence[str]) -> frozenset[str] | None:
    """The name of a prototype, of a variable that is declared only, or of a bare tag."""
    if len(words) == 3 and words[0] in _TAGGED:
        return frozenset((words[1],))
    if words[0] in ("typedef", *_ASSEMBLY) or "=" in words or _has_several(words):
        return None
    if "(" not in words and words[0] != "extern":
        return None  # a variable of its own
    at = words.index("(") if "(" in words else len(words) - 1
    if words[at + 1 : at + 2] in (["*"], ["("]):
        return None  # a pointer to a function: its name is inside
    name = words[at - 1] if at else ""
    return frozenset((name,)) if _WORD.fullmatch(name) and name not in _NO_NAMES else None


def _has_several(words: Sequence[str]) -> bool:
    """Whether a declaration has several names: ``extern int a, b;``."""
    depth = 0
    for word in words:
        depth += (word in ("(", "[")) - (word in (")", "]"))
        if word == "," and depth == 0:
            return True
    return False


def _of_type(words: Sequence[str]) -> frozenset[str] | None:
    """The names that the definition of a type brings: tags, enumerators, and that of a typedef."""
    if words[0] not in (*_TAGGED, "typedef"):
        return None
    names: set[str] = set()
    open_kinds: list[str] = []
    for at, word in enumerate(words):
        if word == "{":
            before = words[max(at - 2, 0) : at]
            if before[-1] in _TAGGED:
                open_kinds.append(before[-1])
            elif before[0] in _TAGGED:
                open_kinds.append(before[0])
                names.add(before[-1])
            else:
                return None
        elif word == "}":
            open_kinds.pop()
        elif open_kinds and open_kinds[-1] == "enum" and words[at - 1] in ("{", ","):
            names.add(word)
    behind = words[len(words) - list(reversed(words)).index("}") : -1]
    if words[0] == "typedef":
        return frozenset({*names, *behind}) if len(behind) == 1 else None
    return frozenset(names) if names and not behind else None
