# SPDX-License-Identifier: GPL-2.0-or-later
"""What kbuild asks the compiler is answered beforehand; what is not known is asked."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.module_pieces import build, changes, cmdline_piece

from livegraft.kernel.kernel import Kernel
from livegraft.module import link, probes
from livegraft.run import run

pytestmark = pytest.mark.build

SPACES = "printf '%s %s\\n' a \"$$TMP\" | grep -q 'a /'"
"""A question as the kernel's makefiles write it: with what is special to make and to the shell."""


def answer(answers: str, question: str, folder: Path) -> str:
    """What make makes of a question, with these answers."""
    (folder / "answers.mk").write_text(answers)
    text = f"try-run = broken\n$(info $(call try-run,{question},yes,no))\nall:;\n"
    (folder / "Makefile").write_text(text)
    env = {"MAKEFILES": str(folder / "answers.mk")}
    return run(["make", "--silent", "-C", folder], env=env).stdout.strip()


def told(answers: str, folder: Path) -> str:
    """What the learning run prints of a question: the line for the answers."""
    return answer(answers, SPACES, folder).splitlines()[0]


def test_an_unknown_question_is_asked(tmp_path: Path) -> None:
    none = probes._COMMON + probes._answered("")
    assert answer(none, "true", tmp_path) == "yes"
    assert answer(none, "false", tmp_path) == "no"
    assert answer(none, SPACES, tmp_path) == "yes"


def test_a_known_one_is_not(tmp_path: Path) -> None:
    lies = probes._COMMON + probes._answered("livegraft-probe n true\nlivegraft-probe y false\n")
    assert answer(lies, "true", tmp_path) == "no"
    assert answer(lies, "false", tmp_path) == "yes"
    line = told(probes._COMMON + probes._LEARN, tmp_path)
    assert line.startswith("livegraft-probe y ")
    lie = probes._COMMON + probes._answered(line.replace(" y ", " n ") + "\n")
    assert answer(lie, SPACES, tmp_path) == "no"
    # Two answers to one question are none, and what would begin a comment is not kept.
    both = f"livegraft-probe y true\nlivegraft-probe n true\nlivegraft-probe n true#\n{line}\n"
    assert answer(probes._COMMON + probes._answered(both), "true", tmp_path) == "yes"


def test_the_module_is_the_same(
    any_kernel: Kernel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the byte, with answers and without; and with them nothing is asked."""
    change = changes(cmdline_piece(any_kernel))
    answers = probes.answers(any_kernel, *link.OPTIONS).read_text()
    strict, count = re.subn(r"lg-ask = .*\\\n.*", "lg-ask = $(error it asked: $(1))", answers)
    assert count == 1
    (tmp_path / "strict.mk").write_text(strict)
    made = []
    for env in ({"MAKEFILES": str(tmp_path / "strict.mk")}, {}):
        monkeypatch.setattr(probes, "environment", lambda *_, env=env: env)
        made.append(build(any_kernel, change).data)
    assert made[0] == made[1]
