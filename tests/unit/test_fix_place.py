# SPDX-License-Identifier: GPL-2.0-or-later
"""Where hunks go, and what is said when they go nowhere."""

from __future__ import annotations

import difflib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from livegraft.errors import DoesNotApply
from livegraft.fix.diff import Hunk, parse_diff
from livegraft.fix.place import apply_hunks

CODE = b"""int first(void)
{
\tlock();
\treturn 1;
}

int second(void)
{
\tlock();
\treturn 2;
}
"""


def hunk(old: bytes, new: bytes, start: int = 1) -> Hunk:
    return Hunk(
        1, start, tuple(old.splitlines(True)), tuple(new.splitlines(True)), "@@ -1,3 +1,3 @@"
    )


def test_a_hunk_may_be_off_by_lines_but_not_by_content() -> None:
    change = hunk(b"\treturn 2;\n}\n", b"\treturn 3;\n}\n", start=2)
    assert apply_hunks("x.c", CODE, [change]) == CODE.replace(b"return 2", b"return 3")
    fuzzy = hunk(b"\tlock(); \n\treturn 2;\n", b"\treturn 3;\n", start=9)
    with pytest.raises(DoesNotApply):
        apply_hunks("x.c", CODE, [fuzzy])


def test_the_nearest_of_several_places_is_taken() -> None:
    for start, expected in ((3, 0), (9, 1)):
        change = hunk(b"\tlock();\n", b"\tunlock();\n", start)
        parts = CODE.split(b"\tlock();\n")
        parts[expected] += b"\tunlock();\n"
        parts[1 - expected] += b"\tlock();\n"
        assert apply_hunks("x.c", CODE, [change]) == b"".join(parts)


def test_two_places_equally_near_are_refused() -> None:
    with pytest.raises(DoesNotApply, match="equally well at lines 3 and 9"):
        apply_hunks("x.c", CODE, [hunk(b"\tlock();\n", b"\tunlock();\n", 6)])


def test_a_miss_names_hunk_and_nearest_place() -> None:
    wanted = b"int second(int x)\n{\n\tlock();\n\treturn 2;\n}\n"
    with pytest.raises(DoesNotApply) as caught:
        apply_hunks("fs/x.c", CODE, [hunk(wanted, b"", 7)])
    text = str(caught.value)
    assert "fs/x.c: hunk 1 (@@ -1,3 +1,3 @@)" in text
    assert "nearest is fs/x.c:7, where 4 of 5 lines match" in text


def test_an_applied_fix_is_told_apart() -> None:
    change = hunk(b"\treturn 9;\n}\n", b"\treturn 2;\n}\n", 10)
    with pytest.raises(DoesNotApply, match=r"already applied at x\.c:10"):
        apply_hunks("x.c", CODE, [change])


def test_dos_line_ends_are_told_apart() -> None:
    change = hunk(b"\treturn 2;\r\n}\r\n", b"\treturn 3;\r\n}\r\n", 10)
    with pytest.raises(DoesNotApply, match="DOS line ends"):
        apply_hunks("x.c", CODE, [change])


def test_nothing_alike() -> None:
    with pytest.raises(DoesNotApply, match="nothing in this file looks like it"):
        apply_hunks("x.c", CODE, [hunk(b"completely\nother\n", b"", 1)])


LINES = st.lists(st.sampled_from([b"a", b"b", b"}", b"", b"\tx\r", b"\xff"]), max_size=30)


@given(LINES, LINES, st.integers(0, 3))
def test_what_difflib_takes_apart_is_put_together(
    before: list[bytes], after: list[bytes], context: int
) -> None:
    """Every hunk applies at its own line and gives the other side, byte for byte."""
    old = [line.decode("latin-1") + "\n" for line in before]
    new = [line.decode("latin-1") + "\n" for line in after]
    diff = "".join(difflib.unified_diff(old, new, "a/x", "b/x", n=context))
    if not diff:
        return
    (file,) = parse_diff(diff.encode("latin-1"), "test")
    content = "".join(old).encode("latin-1")
    assert apply_hunks("x", content, file.hunks) == "".join(new).encode("latin-1")
