# SPDX-License-Identifier: GPL-2.0-or-later
"""Which names a unit has, and in which of its files: of a small source tree, by the compiler."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

import pytest

from livegraft.cache import Cache
from livegraft.errors import CacheError
from livegraft.fix import words
from livegraft.fix.words import Mentions
from livegraft.kbuild.command import Command

HEADER = """\
#define PLAIN 1
#define USED_HERE 2
#define PASTED(name) name ## _pasted
static inline int inner(void) { return USED_HERE; }
static inline int name_pasted(void) { return 1; }
#ifdef NOWHERE
extern int unseen(void);
#endif
"""
BETWEEN = """\
#include "a.h"
#define THROUGH PLAIN
static inline int between(void) { return inner(); }
"""


@dataclass(frozen=True)
class Tree:
    """What of a prepared kernel is asked for."""

    source: Path
    build: Path
    modules: Path
    cache: Cache
    release: str = "1"
    source_version: str = "1"

    def derived(self, name: str) -> str:
        return f"kernel/{name}"

    def make_argv(self, *args: str) -> list[str]:
        return ["make", *args]


@pytest.fixture
def has(tmp_path: Path) -> Callable[..., bool]:
    tree = Tree(tmp_path / "s", tmp_path / "b", tmp_path / "m", Cache(tmp_path / "c"))
    tree.source.mkdir()
    tree.build.mkdir()
    (tree.build / ".config").touch()
    (tree.source / "a.h").write_text(HEADER)
    (tree.source / "b.h").write_text(BETWEEN)

    def ask(code: str, *names: str, left_out: Collection[str] = ("a.h",)) -> bool:
        source = tree.source / "unit.c"
        source.write_text(f'#include "b.h"\n{code}\n')
        argv = ("gcc", "-c", "-Wp,-MMD,unit.d", f"-DCODE={len(code)}", "-o", "unit.o", str(source))
        command = Command(argv, str(source), "unit.o", "unit.d", "unit")
        return Mentions(tree, names, left_out).found(command)

    return ask


@pytest.mark.parametrize(
    ("code", "name"),
    [
        ("int f(void) { return inner(); }", "inner"),
        ("int x = PLAIN;", "PLAIN"),
        ("int x = THROUGH;", "PLAIN"),
        # The header's own function is where the macro is used first.
        ("int x = USED_HERE;", "USED_HERE"),
        ("int f(void) { return PASTED(name)(); }", "name_pasted"),
        ("#ifdef PLAIN\n#endif", "PLAIN"),
        ("#ifdef MISSING\n#endif", "MISSING"),
        ("#if defined(MISSING)\n#endif", "MISSING"),
    ],
)
def test_what_a_unit_has_is_found(has: Callable[..., bool], code: str, name: str) -> None:
    assert has(code, name)
    assert has(code, "other", name)
    assert has(code, name)  # kept


@pytest.mark.parametrize("name", ["PLAIN", "THROUGH", "name_pasted", "unseen", "inn", "a", "h"])
def test_what_it_does_not_have_is_not(has: Callable[..., bool], name: str) -> None:
    assert not has("int f(void) { return 1; }", name)


def test_another_header_counts_if_it_is_not_left_out(has: Callable[..., bool]) -> None:
    assert has("", "inner")
    assert not has("", "inner", left_out=("a.h", "b.h"))
    assert has("", "name_pasted", left_out=())


def test_a_unit_is_preprocessed_once(
    has: Callable[..., bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not has("int x;", "one")
    monkeypatch.setattr(words, "preprocess", None)
    assert not has("int x;", "two") and has("int x;", "x")
    with pytest.raises(TypeError):
        has("int other;", "x")


def test_what_is_kept_may_be_damaged(has: Callable[..., bool], tmp_path: Path) -> None:
    assert has("int x;", "x")
    (kept,) = (tmp_path / "c").rglob("words.sqlite")
    kept.write_bytes(b"no database at all " * 100)
    with pytest.raises(CacheError, match=r"words\.sqlite: cannot be used .* remove it"):
        has("int x;", "x")
    kept.unlink()
    assert has("int x;", "x")
