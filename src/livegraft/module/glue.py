# SPDX-License-Identifier: GPL-2.0-or-later
"""The C file that introduces the new code to the kernel, from its template ``payload.c.in``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from livegraft.changeset import VMLINUX, CallbackKind, ChangeSet, Reference, State, Target
from livegraft.errors import ModuleError
from livegraft.module.template import rendered

TEMPLATE = "payload.c.in"
MARK_FORMAT = 1
CORE_SYMBOLS = ("klp_transition_patch", "klp_transition_work")
"""What the glue uses of kernel/livepatch/transition.c: nothing there is exported."""

RESOLVER_SYMBOLS = ("apply_relocate_add", "kallsyms_on_each_match_symbol")
"""With these a module finds symbols of ``vmlinux`` by a binary search and applies relocations to
them itself, where the kernel reads all names for each relocation."""

QUICK_SYMBOL = "klp_match_callback"
"""The livepatch core of a kernel that has this searches in that way itself (from 6.3 on)."""

KERNEL_SYMBOLS = (*CORE_SYMBOLS, *RESOLVER_SYMBOLS, QUICK_SYMBOL)


@dataclass(frozen=True, slots=True)
class RedirectedFunction:
    """One ``struct klp_func``."""

    name: str
    sympos: int
    symbol: str


@dataclass(frozen=True, slots=True)
class RedirectedObject:
    """One ``struct klp_object``.

    Args:
        name: vmlinux or the module's name.
        functions: what is redirected.
        callbacks: for each unit that has some, the symbols by kind.
    """

    name: str
    functions: tuple[RedirectedFunction, ...]
    callbacks: tuple[Mapping[CallbackKind, str], ...] = ()


def mark(fix_sha256: str) -> str:
    """The value of the module parameter ``livegraft``, by which a loaded patch is known."""
    return f"{MARK_FORMAT}:{fix_sha256}"


def render(
    changeset: ChangeSet,
    *,
    name: str,
    description: str,
    version: str,
    fix_sha256: str,
    namespaces: Sequence[str],
    resolves: bool = False,
    cves: Sequence[str] = (),
) -> str:
    """The text of the glue.

    Args:
        changeset: what to redirect.
        name: the module's name.
        description: the module's description, without quotes and backslashes.
        version: livegraft's.
        fix_sha256: of the fix, hexadecimal.
        namespaces: symbol namespaces of the kernel that the pieces use.
        resolves: it applies relocations to ``vmlinux`` itself.
        cves: CVE ids of what it fixes.
    """
    values = {
        "name": name,
        "description": description,
        "version": version,
        "mark": mark(fix_sha256),
        "fixes": " ".join(cves),
        "namespaces": namespaces,
        "objects": redirected(changeset),
        "has_callbacks": bool(changeset.callbacks),
        "states": changeset.states,
        "resolves": resolves,
    }
    return rendered(TEMPLATE, values)


def redirected(changeset: ChangeSet) -> tuple[RedirectedObject, ...]:
    """The objects with functions to redirect or callbacks, vmlinux first, then modules by name."""
    found = []
    for name in changeset.objects:
        functions = tuple(
            RedirectedFunction(function.target.name, function.target.sympos, function.symbol)
            for function in changeset.functions
            if function.state is State.CHANGED and function.target.object == name
        )
        callbacks = tuple(
            {each.kind: each.symbol for each in piece.callbacks}
            for piece in changeset.pieces
            if piece.object == name and piece.callbacks
        )
        if functions or callbacks:
            found.append(RedirectedObject(name, functions, callbacks))
    return tuple(found)


def resolves_itself(positions: Mapping[str, int]) -> bool:
    """Whether a module applies relocations to ``vmlinux`` itself on this kernel.

    Args:
        positions: how many symbols of each name of :data:`KERNEL_SYMBOLS` the kernel has.
    """
    return not positions.get(QUICK_SYMBOL) and all(
        positions.get(name) == 1 for name in RESOLVER_SYMBOLS
    )


def references(positions: Mapping[str, int]) -> dict[str, Reference]:
    """The livepatch symbols of the glue itself.

    Args:
        positions: how many symbols of each name of :data:`KERNEL_SYMBOLS` the kernel has.

    Raises:
        ModuleError: it has none of a name, or several.
    """
    for name in CORE_SYMBOLS:
        if positions.get(name) != 1:
            raise ModuleError(
                name,
                f"is in this kernel {positions.get(name, 0)} times, once is expected",
                "report this kernel: its livepatch core is of a kind that is not known",
            )
    names = CORE_SYMBOLS + (RESOLVER_SYMBOLS if resolves_itself(positions) else ())
    return {name: Reference(name, VMLINUX, Target(VMLINUX, name, 1)) for name in names}
