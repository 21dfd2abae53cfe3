# SPDX-License-Identifier: GPL-2.0-or-later
"""Why a function is in the set, for real fixes of real units."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.fixes import Edits, write_fix

from livegraft.compare.comparison import Comparison, compare_objects
from livegraft.elf import object as elf
from livegraft.extract.clones import FLAG, parse_clones
from livegraft.extract.reasons import Cause, Why, explain
from livegraft.fix.compiled import compile_touched, find_reached
from livegraft.fix.fix import Fix
from livegraft.fix.units import units_of
from livegraft.kbuild.command import learn
from livegraft.kbuild.compile import Variant, compile_original, compile_unit
from livegraft.kbuild.objects import units_among
from livegraft.kbuild.shadow import shadow_of
from livegraft.kernel.kernel import Kernel
from livegraft.progress import SILENT

pytestmark = pytest.mark.build

TCP = "net/ipv4/tcp_input.c"
DELAYED = (
    "\tif (tp->retrans_stamp)\n\t\treturn tcp_tsopt_ecr_before(tp, tp->retrans_stamp);\n",
    "\tif (tp->retrans_stamp)\n\t\treturn !tcp_tsopt_ecr_before(tp, tp->retrans_stamp);\n",
)
MLOCK = "mm/mlock.c"
MUNLOCK = (
    "\tret = apply_vma_lock_flags(start, len, 0);\n",
    "\tret = apply_vma_lock_flags(start + PAGE_SIZE, len, 0);\n",
)
HEADER = "fs/ext4/mballoc.h"
GROUP = (
    "return ext4_group_first_block_no(sb, fex->fe_group) +",
    "return 8 + ext4_group_first_block_no(sb, fex->fe_group) +",
)


@dataclass(frozen=True, slots=True)
class Explained:
    """A unit of a fix, compared and explained."""

    unit: str
    comparison: Comparison
    whys: tuple[Why, ...]

    @property
    def functions(self) -> set[str]:
        taken = (*self.comparison.changed_entities, *self.comparison.new_entities)
        return {each.name for each in taken}

    def of(self, cause: Cause) -> dict[str, Why]:
        """The functions that a cause takes along."""
        return {each.function: each for each in self.whys if each.cause is cause}


@contextmanager
def explained(kernel: Kernel, edits: Edits, folder: Path) -> Iterator[list[Explained]]:
    changes = Fix.load([write_fix(kernel, edits, folder)]).apply(kernel.source)
    commands = learn(kernel, units_of(changes, kernel).units)
    with shadow_of(kernel.source, changes) as shadow:
        reached = find_reached(kernel, commands, shadow, SILENT)
        batches = compile_touched(kernel, reached, shadow, folder / "objects", SILENT)
        found = []
        for each in next(batches).compiled:
            comparison = compare_objects(elf.read(each.before.path), elf.read(each.after))
            if comparison.changed_entities:
                whys = explain(kernel, each, comparison, shadow)
                found.append(Explained(each.unit.path, comparison, whys))
        yield found


def test_the_dump_leaves_the_object_as_it_is(newest_kernel: Kernel, tmp_path: Path) -> None:
    (unit,) = units_among(newest_kernel, [TCP]).values()
    (command,) = learn(newest_kernel, [unit]).values()
    dump = tmp_path / "clones"
    flags = (*Variant.SECTIONS.flags, f"{FLAG}{dump}")
    dumped = compile_unit(newest_kernel, command, output=tmp_path / "unit.o", extra_flags=flags)
    plain = compile_original(newest_kernel, command, Variant.SECTIONS)
    assert dumped.path.read_bytes() == plain.path.read_bytes()
    clones = parse_clones(dump.read_text("utf-8"))
    assert len(clones.steps) > 1000
    assert {step.how for step in clones.steps} == {"inlining to", "isra", "constprop", "part"}


def test_a_changed_function_is_inlined_in_others(newest_kernel: Kernel, tmp_path: Path) -> None:
    with explained(newest_kernel, {TCP: DELAYED}, tmp_path) as (found,):
        assert {each.function for each in found.whys} == found.functions
        chains = found.of(Cause.INLINED)
        assert chains
        assert all(
            why.via[0] == "tcp_packet_delayed" and len(why.via) > 1 and why.places[0].file == TCP
            for why in chains.values()
        )
        assert not found.of(Cause.UNLOGGED)


def test_a_system_call_is_found_by_its_macro(any_kernel: Kernel, tmp_path: Path) -> None:
    with explained(any_kernel, {MLOCK: MUNLOCK}, tmp_path) as (found,):
        assert "__x64_sys_munlock" in found.functions
        assert {each.function for each in found.whys} == found.functions
        (line,) = {place for why in found.whys for place in why.places}
        assert line.file == MLOCK
        assert "apply_vma_lock_flags(start + PAGE_SIZE" in (
            _patched_line(any_kernel, MLOCK, MUNLOCK, line.first)
        )


def _patched_line(kernel: Kernel, path: str, edit: tuple[str, str], line: int) -> str:
    text = (kernel.source / path).read_text("utf-8").replace(*edit)
    return text.splitlines()[line - 1]


def test_a_hunk_in_a_header_reaches_those_that_inline_it(kernel: Kernel, tmp_path: Path) -> None:
    with explained(kernel, {HEADER: GROUP}, tmp_path) as (found,):
        chains = found.of(Cause.INLINED)
        assert chains.keys() == found.functions
        assert {why.via[0] for why in chains.values()} == {"ext4_grp_offs_to_block"}
        assert {place.file for why in chains.values() for place in why.places} == {HEADER}
