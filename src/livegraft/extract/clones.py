# SPDX-License-Identifier: GPL-2.0-or-later
"""What GCC inlined and cloned in a unit, as it tells itself: ``-fdump-ipa-clones``.

The dump changes nothing of the object (tests/build/test_extract_reasons_kernel.py). Two kinds of
lines, of GCC's ``dump_callgraph_transformation()`` (gcc/cgraph.cc) and ``cgraph_node::remove()``::

    Callgraph clone;NAME;UID;FILE;LINE;COLUMN;NAME;UID;FILE;LINE;COLUMN;HOW
    Callgraph removal;NAME;UID;FILE;LINE;COLUMN

HOW is ``inlining to``, or the kind of a clone: ``isra``, ``constprop``, ``part``. The place is that
of the function's declaration. Identical functions that are folded into one are not told.
"""

from __future__ import annotations

import re
from collections import defaultdict, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from livegraft.errors import BuildError

INLINING = "inlining to"
FLAG = "-fdump-ipa-clones="
"""The compiler option; the path of the dump follows."""

_NODE = r"([^;]+);\d+;(.*?);(-?\d+);-?\d+"
_CLONE = re.compile(rf"Callgraph clone;{_NODE};{_NODE};([^;]+)")
_REMOVAL = re.compile(rf"Callgraph removal;{_NODE}")


@dataclass(frozen=True, slots=True)
class Node:
    """A function of the dump.

    Args:
        name: its assembler name.
        file: as the compiler spelled it.
        line: of its declaration, from 1.
    """

    name: str
    file: str
    line: int


@dataclass(frozen=True, slots=True)
class Step:
    """One transformation.

    Args:
        source: what was taken.
        target: the function that it was inlined into, or the clone that was made of it.
        how: ``inlining to``, or the kind of the clone.
    """

    source: Node
    target: Node
    how: str

    @property
    def is_inlining(self) -> bool:
        """Whether code was inlined, not cloned."""
        return self.how == INLINING


@dataclass(frozen=True, slots=True)
class Chain:
    """How the code of one function came into another.

    Args:
        names: from the one to the other, both included.
        inlined: whether it was inlined anywhere on the way.
    """

    names: tuple[str, ...]
    inlined: bool


@dataclass(frozen=True, slots=True)
class Clones:
    """All transformations of a unit."""

    steps: tuple[Step, ...]
    _into: Mapping[str, tuple[Step, ...]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        into: dict[str, dict[Step, None]] = defaultdict(dict)
        for step in self.steps:
            into[step.target.name][step] = None
        object.__setattr__(self, "_into", {name: tuple(each) for name, each in into.items()})

    def nodes(self) -> Iterable[Node]:
        """All functions that the dump speaks of, each once."""
        found = dict.fromkeys(node for step in self.steps for node in (step.source, step.target))
        return found.keys()

    def chains(self, function: str) -> dict[str, Chain]:
        """All functions whose code is in one, each with a shortest way."""
        found = {function: Chain((function,), False)}
        work = deque([function])
        while work:
            name = work.popleft()
            for step in self._into.get(name, ()):
                if step.source.name not in found:
                    way = found[name]
                    names = (step.source.name, *way.names)
                    found[step.source.name] = Chain(names, way.inlined or step.is_inlining)
                    work.append(step.source.name)
        del found[function]
        return found

    def inlined(self, function: str) -> frozenset[str]:
        """The functions that are inlined in one, at any depth."""
        return frozenset(name for name, way in self.chains(function).items() if way.inlined)


def parse_clones(text: str) -> Clones:
    """Read a dump.

    Raises:
        BuildError: a line is not as GCC writes it.
    """
    steps = []
    for line in text.splitlines():
        found = _CLONE.fullmatch(line)
        if found is not None:
            source, target = Node(found[1], found[2], int(found[3])), found[4]
            steps.append(Step(source, Node(target, found[5], int(found[6])), found[7]))
        elif line and not _REMOVAL.fullmatch(line):
            remedy = "compile with the GCC that built the kernel"
            raise BuildError("-fdump-ipa-clones", f"has a line that is not known: {line}", remedy)
    return Clones(tuple(steps))
