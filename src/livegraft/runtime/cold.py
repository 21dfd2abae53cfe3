# SPDX-License-Identifier: GPL-2.0-or-later
"""Cold parts: code that the kernel's own stack check does not see.

The compiler moves a function's unlikely code to ``f.cold``, elsewhere and with a symbol of its own.
The kernel's core looks for return addresses within the symbol ``f`` only (kernel/livepatch/
transition.c, ``klp_check_stack_func``): a task that sleeps in a call made from ``f.cold`` is taken
for one that is outside. The engine looks at every part of a function; under ``native`` the loader
looks itself.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

from livegraft.runtime import blockers, stacks
from livegraft.runtime.blockers import Blocker
from livegraft.runtime.livepatch import Livepatches
from livegraft.runtime.payload import Payload
from livegraft.runtime.stacks import VMLINUX, Code

PAUSE = 0.01
"""Seconds between two looks."""

SYMBOL = rb"[0-9a-f]+ [tT] (\S+)\.cold(?:\.\d+)?(?:\t\[(\S+)\])?"
"""A cold part, a line of /proc/kallsyms."""


class Looks(NamedTuple):
    """What was seen of tasks inside cold parts.

    Args:
        code: the cold parts of the changed functions, and of the live patches that are there.
        waited_ms: for how long the load waited until nobody was inside.
        before: who was inside at the first look.
        after: who was inside when every task had changed sides: it runs the old code on.
    """

    code: Code
    waited_ms: float
    before: tuple[Blocker, ...]
    after: tuple[Blocker, ...] = ()

    def as_json(self) -> dict[str, object]:
        """As it stands in the document of ``load``."""
        return {
            "functions": sorted(":".join(each) for each in self.code.functions),
            "patches": sorted(self.code.modules),
            "waited_ms": round(self.waited_ms, 3),
            "before": [each.as_json() for each in self.before],
            "after": [each.as_json() for each in self.after],
        }

    def again(self, root: Path = Path("/")) -> Looks:
        """With a look at who is inside now."""
        return self._replace(after=who(self.code, root)) if any(self.code[:2]) else self

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the user should know."""
        return tuple(
            f"{each} ran on in the old code when every task had changed sides: the kernel's core "
            f"does not look at cold parts; the engine's models do"
            for each in self.after
        )


def parts_of(payload: Payload, older: Iterable[str], patches: Livepatches) -> Code:
    """The cold parts of what a patch changes: its manifest tells, or else the running kernel, whose
    table has to be written out by it as text, some megabytes of it.

    Args:
        payload: the patch.
        older: patches that are in force: it may change what they have put in.
        patches: the sysfs view.
    """
    if payload.cold is not None:
        code = Code(payload.cold, cold_only=True)
    else:
        code = _found_by_name(payload.functions, patches.root)
    return code._replace(modules=frozenset(filter(partial(_has_parts, patches), older)))


def _has_parts(patches: Livepatches, module: str) -> bool:
    """Whether a loaded module has cold parts: GCC puts them into ``.text.unlikely``."""
    return any(section.startswith(".text.unlikely") for section in patches.sections(module))


def _found_by_name(functions: Iterable[tuple[str, str]], root: Path) -> Code:
    wanted = frozenset(functions)
    kernels_only = all(owner == VMLINUX for owner, _ in wanted)
    found = _parts_of_kernel(root) if kernels_only else _parts(root)
    return Code(wanted & found, cold_only=True)


@cache
def _parts_of_kernel(root: Path) -> frozenset[tuple[str, str]]:
    """Those that stay as they are: for several patches one look is enough."""
    return frozenset(each for each in _parts(root) if each[0] == VMLINUX)


def _parts(root: Path) -> frozenset[tuple[str, str]]:
    """All that there are, by object and function."""
    try:
        text = (root / "proc/kallsyms").read_bytes()
    except OSError:
        return frozenset()
    symbol = re.compile(SYMBOL)
    return frozenset(
        ((found[2] or VMLINUX.encode()).decode(), found[1].decode("utf-8", "replace"))
        for line in _lines_with(b".cold", text)
        if (found := symbol.fullmatch(line))
    )


def _lines_with(word: bytes, text: bytes) -> Iterator[bytes]:
    """The lines of some megabytes: an expression would look at each byte of all others, too."""
    at = text.find(word)
    while at != -1:
        end = text.find(b"\n", at)
        end = len(text) if end == -1 else end
        yield text[text.rfind(b"\n", 0, at) + 1 : end]
        at = text.find(word, end)


def who(code: Code, root: Path = Path("/")) -> tuple[Blocker, ...]:
    """The tasks that are inside cold parts now."""
    return tuple(blockers.describe(task, code) for task, _ in stacks.inside(code, root / "proc"))


def wait_until_left(code: Code, seconds: float, root: Path = Path("/")) -> tuple[Looks, bool]:
    """Wait until nobody is inside cold parts.

    Args:
        code: the cold parts.
        seconds: for how long at most.
        root: where proc/ is.

    Returns:
        What was seen, and whether all have left.
    """
    began = time.monotonic()
    if not any(code[:2]):
        return Looks(code, 0.0, ()), True
    inside = before = who(code, root)
    while inside and time.monotonic() - began < seconds:
        time.sleep(PAUSE)
        inside = who(code, root)
    waited = (time.monotonic() - began) * 1000 if before else 0.0
    return Looks(code, waited, before), not inside
