# SPDX-License-Identifier: GPL-2.0-or-later
"""What is shown of the steps, on a terminal and elsewhere."""

from __future__ import annotations

import io
import os
import pty
import subprocess
import sys

import pytest

from livegraft.cli import progress
from livegraft.cli.paint import Paint, fields, size, table, wants_colour
from livegraft.cli.progress import LineStep, PlainLines


def test_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LONG", 0.0)
    stream = io.StringIO()
    lines = PlainLines(stream)
    with lines.step("download"):
        lines.note("from the archive")
    assert stream.getvalue().splitlines() == [
        "download ...",
        "from the archive",
        "download ... done in 0.0 s",
    ]
    assert list(lines.timings) == ["download"]


def test_a_failed_step_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LONG", 0.0)
    stream = io.StringIO()
    lines = PlainLines(stream)
    with pytest.raises(ValueError), lines.step("compile"):
        raise ValueError
    assert "compile ... failed after" in stream.getvalue()


def test_a_step_inside_of_an_exception_handler_has_not_failed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(progress, "LONG", 0.0)
    stream = io.StringIO()
    try:
        raise KeyError
    except KeyError:
        with PlainLines(stream).step("compile"):
            pass
    assert "compile ... done in" in stream.getvalue()


def test_a_long_step_says_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "TICK", 0.0)
    stream = io.StringIO()
    with PlainLines(stream).step("download", total=4) as step:
        step.advance(1)
        step.advance(2)
    assert "download ... 25%\ndownload ... 75%\n" in stream.getvalue()


def test_a_very_long_step_says_how_long_it_will_take(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "TICK", 0.0)
    stream = io.StringIO()
    with PlainLines(stream).step("measure", total=4) as step:
        assert isinstance(step, LineStep)
        step.began -= 600  # ten minutes for a quarter
        step.advance(1)
        step.began += 550  # and less than a minute more for the second
        step.advance(1)
    assert "measure ... 25%, 30 min left\nmeasure ... 50%\n" in stream.getvalue()


class LostTerminal(io.StringIO):
    def write(self, text: str) -> int:
        raise OSError(5, "Input/output error")


@pytest.mark.parametrize("drawn", [False, True])
def test_a_lost_terminal_stops_no_work(drawn: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    from livegraft.cli.live import Bars

    monkeypatch.setattr(progress, "LONG", 0.0)
    monkeypatch.setattr(sys, "stderr", LostTerminal())
    shown = Bars() if drawn else PlainLines()
    with shown.step("download", total=2) as step:
        step.advance(1)
        shown.note("undone")
    shown.close()
    assert list(shown.timings) == ["download"]


TERMINAL = """
import sys, time
from livegraft.cli.progress import shown
progress = shown(quiet=False, verbose=False, may_draw=True)
print(type(progress).__name__)
with progress.step("download", total=3_000_000) as step:
    for _ in range(6):
        step.advance(500_000)
        step.say("linux-image")
        time.sleep(0.12)
with progress.step("unpack [all]"):
    progress.note("a [note]")
try:
    with progress.step("compile"):
        raise ValueError
except ValueError:
    pass
progress.close()
"""


def test_bars_on_a_terminal() -> None:
    """A real terminal: standard error is one, standard output is not."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", TERMINAL],
        stdout=subprocess.PIPE,
        stderr=theirs,
        env=os.environ | {"TERM": "xterm", "COLUMNS": "120"},
        text=True,
    )
    os.close(theirs)
    shown = b""
    while True:
        try:
            piece = os.read(ours, 65536)
        except OSError:  # the other end is closed
            break
        if not piece:
            break
        shown += piece
    os.close(ours)
    out, _ = process.communicate(timeout=20)
    assert process.returncode == 0
    assert out == "Bars\n"
    screen = shown.decode()
    assert "/3.0 MB" in screen
    assert "linux-image" in screen
    assert "a [note]" in screen
    assert "x\x1b[0m compile" in screen or "x compile" in screen


def test_no_bars_for_runtime_verbs_nor_without_a_terminal() -> None:
    assert isinstance(progress.shown(quiet=False, verbose=False, may_draw=False), PlainLines)
    assert not isinstance(progress.shown(quiet=True, verbose=False, may_draw=True), PlainLines)


def test_colour_only_where_it_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert wants_colour(Terminal(), refused=False)
    assert not wants_colour(Terminal(), refused=True)
    assert not wants_colour(io.StringIO(), refused=False)
    monkeypatch.setenv("NO_COLOR", "1")
    assert not wants_colour(Terminal(), refused=False)


def test_table() -> None:
    plain = Paint(colour=False)
    text = table(("A", "LONG"), [("first", "one\ntwo"), ("2", "three")], plain)
    assert text == "A      LONG\nfirst  one\n       two\n2      three"
    assert table(("A", "B"), [], plain) == "A  B"
    assert fields([("a", "1"), ("bcd", "2")], plain) == "a    1\nbcd  2"


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (999, "999 B"), (12_345, "12.3 kB"), (858e6, "858.0 MB")]
)
def test_size(count: float, text: str) -> None:
    assert size(count) == text
