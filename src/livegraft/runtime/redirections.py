# SPDX-License-Identifier: GPL-2.0-or-later
"""Who redirects which function: what a live patch may share a function with, and what not.

``enabled_functions`` of tracefs has a record for each function that ftrace calls something for::

    lgt_answer [lgt_target] (1)   I  <TAB>tramp: 0xffffffffc0244000 (klp_ftrace_handler+0x0/0x110)

with ``I`` where one user may change where the function goes (IPMODIFY: one at a time), ``D`` where
there is a direct call (one at a time), whose target follows in a line of its own after
``direct-->`` (kernel/trace/ftrace.c, ``t_show``). Other letters tell of nothing that redirects.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

from livegraft.errors import PatchError
from livegraft.runtime.livepatch import LivePatch, Livepatches
from livegraft.runtime.model import ModelName
from livegraft.runtime.stacks import VMLINUX

PLACES = ("sys/kernel/tracing", "sys/kernel/debug/tracing")
"""Where tracefs may be mounted."""

RECORD = r"(?s)(?P<name>\S+)(?: \[(?P<owner>[^]]+)\])? \(\d+\)(?P<flags>[ A-Z]*)(?P<rest>.*)"

REDIRECTING = frozenset("ID")

Function = tuple[str, str]
"""Object and name."""


class Kind(StrEnum):
    """What redirects a function."""

    LIVEPATCH = "livepatch"
    ENGINE = "engine"
    BPF = "bpf"
    KPROBE = "kprobe"
    OTHER = "other"


KINDS = (
    ("klp_ftrace_handler", Kind.LIVEPATCH, "a live patch of the kernel's core"),
    ("[livegraft_engine]", Kind.ENGINE, "a live patch of livegraft's engine"),
    ("bpf_trampoline", Kind.BPF, "a BPF program"),
    ("kprobe_ftrace_handler", Kind.KPROBE, "a kprobe with a post handler"),
)
"""What the handler's name, or the direct call's target, says."""

REMEDIES = {
    Kind.LIVEPATCH: "unload that patch first, or use --model native as it does",
    Kind.ENGINE: "unload that patch first, or use a model of the engine as it does",
    Kind.BPF: "end that program, or use --no-direct: an ordinary handler can share the function",
    Kind.KPROBE: "remove that probe: /sys/kernel/debug/kprobes/list shows it",
    Kind.OTHER: "end what uses ftrace there: an agent, or another live patcher",
}


class Redirection(NamedTuple):
    """Something that redirects a function.

    Args:
        function: which, by object and name.
        kind: what it is.
        owner: the same for people, by name where it is known.
    """

    function: Function
    kind: Kind
    owner: str

    def __str__(self) -> str:
        return f"{self.function[1]} is redirected by {self.owner}"

    def as_json(self) -> dict[str, object]:
        """As it stands in documents."""
        return {
            "object": self.function[0],
            "function": self.function[1],
            "kind": self.kind.value,
            "owner": self.owner,
        }


class Record(NamedTuple):
    """A function's record in ``enabled_functions``: the handlers, and the direct call's target."""

    function: Function
    flags: frozenset[str]
    handlers: str
    direct: str


def may_share(model: str, direct: bool) -> frozenset[Kind]:
    """What a live patch may share a function with.

    Args:
        model: its model.
        direct: it uses direct calls.
    """
    if model == ModelName.NATIVE:
        return frozenset({Kind.LIVEPATCH, Kind.BPF})
    return frozenset({Kind.ENGINE} if direct else {Kind.ENGINE, Kind.BPF})


def records(root: Path = Path("/")) -> dict[Function, Record] | None:
    """What ftrace calls something for; None where tracefs is not mounted or not readable."""
    for place in PLACES:
        try:
            text = (root / place / "enabled_functions").read_text("utf-8", "backslashreplace")
        except OSError:
            continue
        # Equal names may stand there twice: the one that redirects counts.
        found = sorted(_parsed(text), key=lambda each: bool(each.flags & REDIRECTING))
        return {each.function: each for each in found}
    return None


def _parsed(text: str) -> Iterable[Record]:
    record = re.compile(RECORD)
    # A line that begins with a tab belongs to the record before it.
    for block in re.split(r"\n(?!\t)", text.rstrip("\n")):
        found = record.fullmatch(block)
        if found:
            handlers, _, direct = found["rest"].partition("direct-->")
            flags = frozenset(found["flags"].replace(" ", ""))
            function = (found["owner"] or VMLINUX, found["name"])
            yield Record(function, flags, handlers.strip(), direct.strip())


def of(
    functions: Iterable[Function], patches: Livepatches, *, but: str = ""
) -> list[Redirection] | None:
    """What redirects functions.

    Args:
        functions: which.
        patches: the sysfs view, of whichever core.
        but: a patch that is left out.

    Returns:
        All that was found; None if tracefs cannot be read.
    """
    enabled = records(patches.root)
    if enabled is None:
        return None
    loaded = [
        (core, patch)
        for core in patches.both
        for name in patches.names()
        if name != but and (patch := core.get(name)) is not None
    ]
    found: list[Redirection] = []
    for function in functions:
        record = enabled.get(function)
        if record is None or not record.flags & REDIRECTING:
            continue
        mine = [
            Redirection(function, _kind_of(core, patches), f"the live patch {patch.name}")
            for core, patch in loaded
            if function in patch.functions
        ]
        found += mine
        found += _strangers(record, {each.kind for each in mine}, patches, but)
    return found


def beside(patch: LivePatch, patches: Livepatches) -> tuple[Redirection, ...]:
    """What else redirects the functions that a loaded patch redirects now.

    Args:
        patch: the patch; functions of objects that are not loaded do not count.
        patches: the sysfs view, of whichever core.

    Returns:
        All that was found, as far as tracefs can be read.
    """
    functions = [
        (each.name, name) for each in patch.objects if each.patched for name, _ in each.functions
    ]
    return tuple(of(functions, patches, but=patch.name) or ())


def _strangers(
    record: Record, known: set[Kind], patches: Livepatches, but: str
) -> Iterable[Redirection]:
    """Of a record's at most two users, a handler's and a direct call's, those that sysfs does not
    name."""
    own = _kind_of(patches.of(but), patches) if but and patches.is_loaded(but) else None
    for flag, text in (("I", record.handlers), ("D", record.direct)):
        if flag not in record.flags:
            continue
        kind, owner = _told(text)
        cores = {Kind.LIVEPATCH, Kind.ENGINE}
        if kind in cores and (kind in known or kind is own):
            continue
        # Where several share a function its handlers are not told: one of ours may be among them.
        if kind is Kind.OTHER and flag == "I" and (known | {own}) & cores:
            continue
        yield Redirection(record.function, kind, owner)


def _told(text: str) -> tuple[Kind, str]:
    for part, kind, owner in KINDS:
        if part in text:
            return kind, owner
    return Kind.OTHER, f"another user of ftrace ({' '.join(text.split()) or 'not named'})"


def _kind_of(core: Livepatches, patches: Livepatches) -> Kind:
    return Kind.LIVEPATCH if core.core == patches.both[0].core else Kind.ENGINE


def check(
    name: str, functions: Iterable[Function], model: str, direct: bool, patches: Livepatches
) -> tuple[str, ...]:
    """Refuse to load what cannot share its functions with those that have them already.

    Args:
        name: the patch that is to be loaded.
        functions: what it redirects.
        model: its model.
        direct: it uses direct calls.
        patches: the sysfs view.

    Returns:
        What the user should know: users that share a function, and names that are not unique.

    Raises:
        PatchError: a function cannot be shared; names its owner.
    """
    found = of(functions, patches)
    if found is None:
        return ("tracefs is not mounted: other users of ftrace were not looked for",)
    shared = may_share(model, direct)
    cautions = [f"{each} as well" for each in found if each.kind is Kind.BPF]
    in_the_way = [each for each in found if each.kind not in shared]
    if not in_the_way:
        return tuple(cautions)
    counts = _counts(patches.root, {each.function for each in in_the_way})
    for each in in_the_way:
        if counts.get(each.function, 1) == 1:
            raise PatchError(
                name,
                f"{each}, which model {model}{'' if direct else ' without direct calls'} cannot "
                f"share it with; nothing was changed",
                _remedy(each.kind, model),
            )
        cautions.append(f"{each}, or a function of the same name is: the kernel will tell")
    return tuple(cautions)


def _remedy(kind: Kind, model: str) -> str:
    if kind is Kind.BPF and model == ModelName.NATIVE:
        return REMEDIES[Kind.OTHER]
    return REMEDIES[kind]


def _counts(root: Path, functions: set[Function]) -> Mapping[Function, int]:
    """How often the kernel has a symbol of each name: ``enabled_functions`` gives names only."""
    counts = dict.fromkeys(functions, 0)
    try:
        lines = (root / "proc/kallsyms").read_text("utf-8", "backslashreplace").splitlines()
    except OSError:
        return {}
    for line in lines:
        words = line.split()
        owner = words[3].strip("[]") if len(words) > 3 else VMLINUX
        if len(words) > 2 and (owner, words[2]) in counts:
            counts[owner, words[2]] += 1
    return {function: count for function, count in counts.items() if count}
