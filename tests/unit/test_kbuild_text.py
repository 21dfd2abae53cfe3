# SPDX-License-Identifier: GPL-2.0-or-later
"""Compiler commands and messages, as text."""

from __future__ import annotations

import pytest

from livegraft.errors import BuildError, Refused
from livegraft.kbuild.command import parse
from livegraft.kbuild.compile import check_layout
from livegraft.kbuild.diagnostics import clean, first_error

COMMAND = (
    "gcc-12 -Wp,-MMD,fs/ext4/.mballoc.o.d -I/s/include -DMODULE "
    "-DKBUILD_BASENAME='\"mballoc\"' -DKBUILD_MODNAME='\"ext4\"' -D__KBUILD_MODNAME=kmod_ext4 "
    "-c -o fs/ext4/mballoc.o /s/fs/ext4/mballoc.c"
)


@pytest.mark.parametrize("after", ["", "  ", " ; ./tools/objtool/objtool --orc fs/ext4/mballoc.o"])
def test_a_command_is_cut_after_the_compiler(after: str) -> None:
    command = parse(COMMAND + after)
    assert command.argv[0] == "gcc-12"
    assert command.argv[-1] == command.source == "/s/fs/ext4/mballoc.c"
    assert command.output == "fs/ext4/mballoc.o"
    assert command.depfile == "fs/ext4/.mballoc.o.d"
    assert command.modname == "ext4"
    assert '-DKBUILD_BASENAME="mballoc"' in command.argv


@pytest.mark.parametrize(
    "text",
    [
        COMMAND + " && rm x",
        "x | " + COMMAND,
        COMMAND + " `date`",
        COMMAND + "; rm x",
        "gcc -c x.c",
        COMMAND.replace(" -o fs/ext4/mballoc.o", ""),
    ],
)
def test_what_is_not_a_plain_command_is_refused(text: str) -> None:
    with pytest.raises(BuildError):
        parse(text)


def test_random_layout_is_refused() -> None:
    plugin = "-fplugin=./scripts/gcc-plugins/randomize_layout_plugin.so"
    for word in (plugin, "-frandomize-layout-seed-file=./x"):
        with pytest.raises(Refused) as refused:
            check_layout(parse(COMMAND.replace("gcc-12", f"gcc-12 {word}")))
        assert [each.rule for each in refused.value.reasons] == ["randomized-layout"]
    check_layout(parse(COMMAND))


MESSAGES = """\
/s/fs/ext4/mballoc.c: In function 'f':
/s/fs/ext4/mballoc.c:10:9: warning: unused variable 'x' [-Wunused-variable]
   10 |     int x;
      |         ^
In file included from /shadow/fs/ext4/ext4.h:5,
                 from /shadow/fs/ext4/mballoc.c:7:
/shadow/fs/ext4/ext4.h:20:1: error: unknown type name 'foo'
   20 | foo x;
      | ^~~
/shadow/fs/ext4/mballoc.c: In function 'g':
/shadow/fs/ext4/mballoc.c:30:5: error: 'y' undeclared (first use in this function)
   30 |     y = 1;
      |     ^
/shadow/fs/ext4/mballoc.c:30:5: note: each undeclared identifier is reported only once
"""


def test_messages_are_cleaned() -> None:
    cleaned = clean(MESSAGES, ["/s", "/shadow"])
    assert "/s" not in cleaned
    assert "warning" not in cleaned and "int x" not in cleaned
    assert cleaned.splitlines()[0] == "In file included from fs/ext4/ext4.h:5,"
    assert "      | ^~~" in cleaned
    assert "note: each undeclared" in cleaned
    assert first_error(cleaned) == ("fs/ext4/ext4.h:20", "unknown type name 'foo'")


def test_messages_of_another_kind_are_kept() -> None:
    assert clean("gcc: internal compiler error: Killed\n", []).startswith("gcc: internal")
    assert first_error("nothing") == ("", "")


def test_an_error_in_a_macro_is_told_where_that_is_used() -> None:
    cleaned = """\
livegraft.h:54:60: error: initialization from incompatible pointer type
   54 |                 __section(...) = (function)
livegraft.h:46:41: note: in expansion of macro '__LIVEGRAFT_CALLBACK'
fs/proc/version.c:14:1: note: in expansion of macro 'LIVEGRAFT_PRE_PATCH'
fs/proc/version.c:20:1: error: another one
fs/proc/version.c:30:1: note: in expansion of macro 'OTHER'"""
    expected = ("fs/proc/version.c:14", "initialization from incompatible pointer type")
    assert first_error(cleaned) == expected
