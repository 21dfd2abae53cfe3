# SPDX-License-Identifier: GPL-2.0-or-later
"""What a document shows of commands, and whether they print that.

A block of commands is one that is marked: ``<!-- run -->``, ``<!-- run in a guest -->``, ``<!-- run
on the machine -->``, where the prompt is root's. A file that the reader writes is marked ``<!--
file: NAME -->``. In an output, ``…`` stands for anything; numbers that differ from run to run are
not compared.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

ON_THE_MACHINE = "run on the machine"

PROMPTS = {ON_THE_MACHINE: "# "}
"""Where it is not the ordinary one."""

PROGRESS = re.compile(r"^\S.* \.\.\.( done in [\d.]+ s)?$")
"""What the command says of its steps where it cannot draw."""

CONTINUED = re.compile(r" *\\\n *")
"""A command that goes on in the next line."""

MARK = re.compile(r"^<!-- *(?:run|file)\b.*$", re.MULTILINE)
"""What is meant for one; a mark that is misspelt would leave its block out."""

COLOUR = re.compile(r"\x1b\[[\d;]*m")

CHANGING = (
    (re.compile(r"\b\d+(\.\d+)?(?= (ms|s|kB)\b)"), "N"),
    (re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+\+00:00"), "DATE"),
    (re.compile(r"livegraft \d+\.\d+\.\d+"), "livegraft VERSION"),
)


@dataclass(frozen=True, slots=True)
class Block:
    """A part of a document that is run.

    Args:
        line: where it begins.
        mark: ``run``, ``run in a guest``, ``run on the machine`` or ``file: NAME``.
        text: what is in it.
    """

    line: int
    mark: str
    text: str

    def commands(self) -> Iterator[tuple[str, list[str]]]:
        """Each command with the lines that it should print."""
        command, printed = "", list[str]()
        prompt = PROMPTS.get(self.mark, "$ ")
        for line in CONTINUED.sub(" ", self.text).splitlines():
            if line.startswith(prompt):
                if command:
                    yield command, printed
                command, printed = line.removeprefix(prompt), []
            else:
                assert command, f"line {self.line}: an output without a command"
                printed.append(line)
        yield command, printed


def blocks(text: str) -> list[Block]:
    """The marked blocks of a text, in order.

    Raises:
        ValueError: something looks like a mark, and marks no block.
    """
    matches = re.finditer(
        r"^<!-- (run|run in a guest|run on the machine|file: \S+) -->\n"
        r"```(?:console|sh)\n(.*?)^```$",
        text,
        re.MULTILINE | re.DOTALL,
    )
    found = [Block(text.count("\n", 0, m.start()) + 1, m[1], m[2]) for m in matches]
    marks = {text.count("\n", 0, m.start()) + 1: m[0] for m in MARK.finditer(text)}
    if stray := sorted(marks.keys() - {each.line for each in found}):
        raise ValueError(f"line {stray[0]}: {marks[stray[0]]} marks no block")
    return found


def differs(expected: list[str], printed: str) -> str:
    """How an output differs from what is shown; empty if it does not."""
    lines = [line.rstrip() for line in printed.splitlines()]
    lines = [line for line in lines if line in expected or not PROGRESS.match(line)]
    parts = []
    for line in expected:
        if line == "…":
            parts.append(r"(?:.*\n)*?")
        else:
            words = map(re.escape, _steady(line.rstrip()).split("…"))
            parts.append(".*".join(words) + r"\n")
    text = "".join(f"{_steady(line)}\n" for line in lines)
    if re.fullmatch("".join(parts), text):
        return ""
    shown = "\n".join(expected)
    return f"what is shown:\n{shown}\n\nthe command printed:\n{printed}"


def _steady(line: str) -> str:
    for pattern, replacement in CHANGING:
        line = pattern.sub(replacement, line)
    return line


@dataclass(slots=True)
class Transcript:
    """What commands have printed, in the order in which they were run.

    Args:
        entries: each command with its output.
    """

    entries: list[tuple[str, str]] = field(default_factory=list)

    def add(self, command: str, printed: str) -> None:
        """A command was run; colours, which a terminal was given, do not count."""
        self.entries.append((command, COLOUR.sub("", printed)))

    def problems(self, document: str) -> list[str]:
        """Each command of a document that was not run, or has never printed what is shown."""
        found = []
        for block in blocks(document):
            for command, expected in block.commands():
                outputs = [text for each, text in self.entries if each == command]
                differences = [differs(expected, text) for text in outputs]
                if all(differences):
                    what = "\n".join(differences) or "it was not run"
                    found.append(f"line {block.line}: {command}\n{what}")
        return found
