# SPDX-License-Identifier: GPL-2.0-or-later
"""What a guide shows is compared with what was printed; the comparison can fail."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.shown import ON_THE_MACHINE, Transcript, blocks

GUIDE = Path(__file__).parents[2] / "docs/administration.md"

TEXT = """\
<!-- run on the machine -->
```console
# apt-get install x
…
Setting up x (1) ...
# livegraft status --check \\
      --quiet
LIVEGRAFT OK
```

```
# not marked, not run
```
"""

PRINTED = (
    ("apt-get install x", "Reading\nSetting up x (1) ...\n"),
    ("livegraft status --check --quiet", "LIVEGRAFT OK\n"),
)


def transcript(*entries: tuple[str, str]) -> Transcript:
    return Transcript(list(entries))


def test_colours_do_not_count() -> None:
    found = transcript()
    found.add("livegraft x", "\x1b[31mlivegraft:\x1b[0m not done\n\x1b[1;33mremedy:\x1b[0m do it\n")
    assert found.entries == [("livegraft x", "livegraft: not done\nremedy: do it\n")]


def test_all_was_printed() -> None:
    assert transcript(*PRINTED).problems(TEXT) == []
    # It may have printed something else at another time.
    assert transcript(*PRINTED, (PRINTED[1][0], "LIVEGRAFT WARNING\n")).problems(TEXT) == []


@pytest.mark.parametrize(
    ("entries", "problem"),
    [
        (PRINTED[:1], "line 1: livegraft status --check --quiet\nit was not run"),
        ((PRINTED[0], (PRINTED[1][0], "LIVEGRAFT OK\nmore\n")), "more"),
        ((("apt-get install x", "Reading\n"), PRINTED[1]), "Setting up"),
    ],
)
def test_something_is_shown_that_was_not_printed(
    entries: tuple[tuple[str, str], ...], problem: str
) -> None:
    (found,) = transcript(*entries).problems(TEXT)
    assert problem in found


@pytest.mark.parametrize("mark", ["run on teh machine", "run", "file:"])
def test_a_mark_that_marks_nothing(mark: str) -> None:
    with pytest.raises(ValueError, match=f"line 1: <!-- {mark} --> marks no block"):
        blocks(f"<!-- {mark} -->\n\n```console\n# true\n```\n")


def test_the_guide_of_administrators_shows_what_they_do() -> None:
    found = blocks(GUIDE.read_text("utf-8"))
    assert len([each for each in found if each.mark == ON_THE_MACHINE]) >= 7
    commands = [command for each in found for command, _ in each.commands()]
    for verb in ("install", "list", "load", "status", "history", "verify", "package", "boot"):
        assert any(each.startswith(f"livegraft {verb}") for each in commands), verb
    for each in ("apt-get install", "apt-get remove", "journalctl", "needrestart"):
        assert any(command.startswith(each) for command in commands), each
