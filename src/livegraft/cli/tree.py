# SPDX-License-Identifier: GPL-2.0-or-later
"""The argparse tree as plain values, for completion, the man page and the reference."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from livegraft.cli import parser
from livegraft.cli.verb import SUMMARIES, Verb


class Kind(StrEnum):
    """What the value of an argument is, for completion."""

    NONE = "none"
    TEXT = "text"
    CHOICE = "choice"
    FILE = "file"
    FOLDER = "folder"
    RELEASE = "release"
    PATCH = "patch"
    INSTALLED = "installed"


KINDS = {
    "DIR": Kind.FOLDER,
    "RELEASE": Kind.RELEASE,
    "OLD": Kind.RELEASE,
    "NEW": Kind.RELEASE,
    "NAME": Kind.PATCH,
    "FIX": Kind.FILE,
    "FILE": Kind.FILE,
    "SCRIPT": Kind.FILE,
    "KEY": Kind.FILE,
    "CERT": Kind.FILE,
    "KEY CERT": Kind.FILE,
    "PATCH.ko": Kind.FILE,
    "OUT.ko": Kind.FILE,
    "ORIG.o": Kind.FILE,
    "PATCHED.o": Kind.FILE,
}
"""What a value is, by the name that help gives it."""

NAMES_INSTALLED = ("install", "uninstall")
"""Verbs whose NAME is that of an installed patch; that of the others is a loaded one's."""


@dataclass(frozen=True, slots=True)
class Argument:
    """An option or a positional argument.

    Args:
        flags: ``-o``, ``--output``; empty for a positional one.
        metavar: the name of its value, as help prints it; empty for a flag.
        kind: what its value is.
        choices: the values there are, for :attr:`Kind.CHOICE`.
        help: its line in the help.
        required: whether it has to be given.
        repeated: whether it takes, or may be given, several times.
        shared: whether every verb has it.
    """

    flags: tuple[str, ...]
    metavar: str
    kind: Kind
    choices: tuple[str, ...]
    help: str
    required: bool
    repeated: bool
    shared: bool

    @property
    def words(self) -> str:
        """As a usage line writes it: ``-o OUT.ko``, ``[--json]``, ``FIX...``."""
        value = f"{self.metavar}{'...' if self.repeated and not self.flags else ''}"
        text = " ".join(part for part in (self.flags[0] if self.flags else "", value) if part)
        text = text if self.required else f"[{text}]"
        return f"{text}..." if self.repeated and self.flags else text


@dataclass(frozen=True, slots=True)
class Command:
    """A verb with its arguments."""

    verb: Verb
    summary: str
    arguments: tuple[Argument, ...]

    @property
    def usage(self) -> str:
        """The usage line, without the options of every verb."""
        own = [argument for argument in self.arguments if not argument.shared]
        own.sort(key=lambda argument: bool(argument.flags))
        return " ".join((parser.PROGRAM, self.verb.name, *(argument.words for argument in own)))


def commands() -> tuple[Command, ...]:
    """Every verb, with its arguments as argparse has them."""
    root, verbs = parser.build()
    shared = {action.dest for action in root._actions}
    choices = next(a for a in root._actions if isinstance(a, argparse._SubParsersAction)).choices
    return tuple(
        Command(verb, SUMMARIES[name], tuple(_arguments(choices[name], shared, name)))
        for name, verb in verbs.items()
    )


def shared_options() -> tuple[Argument, ...]:
    """The options of the command itself, most of which every verb has."""
    root, _ = parser.build([])
    return tuple(_arguments(root, {action.dest for action in root._actions}))


def _arguments(of: argparse.ArgumentParser, shared: set[str], verb: str = "") -> Iterator[Argument]:
    for action in of._actions:
        if isinstance(action, argparse._SubParsersAction) or action.help == argparse.SUPPRESS:
            continue
        yield Argument(
            flags=tuple(action.option_strings),
            metavar=_metavar(action),
            kind=_kind(action, verb),
            choices=tuple(str(choice) for choice in action.choices or ()),
            help=(action.help or "") % {"default": action.default, "prog": of.prog},
            required=_required(action),
            repeated=action.nargs in ("+", "*") or isinstance(action, argparse._AppendAction),
            shared=action.dest in shared,
        )


def _required(action: argparse.Action) -> bool:
    if action.option_strings:
        return action.required
    return action.nargs not in ("?", "*")


def _metavar(action: argparse.Action) -> str:
    if action.nargs == 0:
        return ""
    if action.metavar is not None:
        return action.metavar if isinstance(action.metavar, str) else " ".join(action.metavar)
    if action.choices:
        return "|".join(str(choice) for choice in action.choices)
    return action.dest.upper()


def _kind(action: argparse.Action, verb: str) -> Kind:
    if action.nargs == 0:
        return Kind.NONE
    if action.choices:
        return Kind.CHOICE
    kind = KINDS.get(_metavar(action), Kind.TEXT)
    return Kind.INSTALLED if kind is Kind.PATCH and verb in NAMES_INSTALLED else kind


def own_options(command: Command) -> Sequence[Argument]:
    """The verb's own options, without those that every verb has."""
    return [one for one in command.arguments if one.flags and not one.shared]


def positionals(command: Command) -> Sequence[Argument]:
    """The verb's positional arguments, in order."""
    return [one for one in command.arguments if not one.flags]
