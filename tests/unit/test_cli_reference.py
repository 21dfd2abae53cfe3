# SPDX-License-Identifier: GPL-2.0-or-later
"""What is written about the verbs is what they are."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest
from tests.documents import DOCS, script

from livegraft.cli import parser, tree
from livegraft.cli.verb import SUMMARIES
from livegraft.errors import Exit

PAGES: dict[str, str] = script("build_reference").pages()


@pytest.mark.parametrize("page", sorted(PAGES))
def test_the_page_is_the_command_s(page: str) -> None:
    written = (DOCS / "reference" / page).read_text("utf-8")
    assert written == PAGES[page], "run: python docs/build_reference.py"


def test_there_is_a_page_for_every_verb_and_no_other() -> None:
    pages = {path.stem for path in (DOCS / "reference" / "verbs").glob("*.md")}
    assert pages == set(SUMMARIES)


@pytest.mark.parametrize("command", tree.commands(), ids=lambda command: str(command.verb.name))
def test_the_examples_parse(command: tree.Command) -> None:
    """An example that the parser refuses would be worse than none."""
    assert command.verb.examples
    root, _ = parser.build()
    for example in command.verb.examples:
        words = example.split(" > ")[0].replace("'", "").split()
        assert words[:2] == ["livegraft", command.verb.name]
        root.parse_args(words[1:])


@pytest.mark.parametrize("command", tree.commands(), ids=lambda command: str(command.verb.name))
def test_every_argument_has_help(command: tree.Command) -> None:
    assert [argument for argument in command.arguments if not argument.help] == []


def test_the_page_of_exit_codes_has_all_of_them() -> None:
    text = (DOCS / "reference" / "exit-codes.md").read_text("utf-8")
    codes = re.findall(r"^\| (\d) \| (\w+) \|", text, re.MULTILINE)
    assert codes == [(str(code.value), code.name.lower()) for code in Exit]


@pytest.mark.parametrize(
    "code", [Exit.UNCHANGED, Exit.REFUSED, Exit.LOST], ids=lambda code: str(code.name)
)
def test_the_page_of_exit_codes_names_who_ends_with_it(code: Exit) -> None:
    text = (DOCS / "reference" / "exit-codes.md").read_text("utf-8")
    (line,) = [line for line in text.splitlines() if line.startswith(f"| {code.value} ")]
    named = set(re.findall(r"`(\w+)`", line))
    assert named == {
        command.verb.name for command in tree.commands() if code in command.verb.exit_codes
    }


def test_the_man_page() -> None:
    page: str = script("build_man").page()
    assert page.startswith('.\\" SPDX')
    for command in tree.commands():
        assert f"livegraft {command.verb.name}" in page.replace("\\-", "-")
    if shutil.which("groff") is None:
        pytest.skip("groff is missing: apt-get install groff-base")
    done = subprocess.run(
        ["groff", "-man", "-ww", "-Tutf8", "-z"],
        input=page,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
