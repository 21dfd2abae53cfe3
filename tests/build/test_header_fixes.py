# SPDX-License-Identifier: GPL-2.0-or-later
"""A fix of an inline function of a header: the units that use it, and their changed functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import pytest

from livegraft import pipeline
from livegraft.errors import Refused
from livegraft.fix import compiled, units
from livegraft.fix.compiled import find_reached
from livegraft.fix.fix import Fix
from livegraft.fix.reach import Reach
from livegraft.fix.units import units_of
from livegraft.kbuild.command import Command, learn
from livegraft.kbuild.compile import Variant, compile_original, compile_unit, side_by_side
from livegraft.kbuild.shadow import shadow_of
from livegraft.kernel.kernel import Kernel
from livegraft.pipeline import Verdict
from livegraft.progress import SILENT

pytestmark = pytest.mark.build

HEADER, USER, READER = "fs/fat/fat.h", "fs/fat/fatent.c", "fs/fat/cache.c"
EVERYWHERE = {HEADER: ("i_pos = MSDOS_I(inode)->i_pos;", "i_pos = MSDOS_I(inode)->i_pos + 1;")}
"""Of a function that three units use."""

EDIT = {HEADER: ("fatent->entry = entry;", "fatent->entry = entry + 8;")}

BODY = """\
static void fat12_ent_set_ptr(struct fat_entry *fatent, int offset)
{
	struct buffer_head **bhs = fatent->bhs;
"""


def test_only_what_uses_the_function_changes(
    kernel: Kernel, fix_of: Callable[[Mapping[str, object]], Path], tmp_path: Path
) -> None:
    fix = fix_of(EDIT)
    changes = Fix.load([fix]).apply(kernel.source)
    commands = {
        unit.path: each for unit, each in learn(kernel, units_of(changes, kernel).units).items()
    }
    assert set(commands) > {USER, READER}
    with shadow_of(kernel.source, changes) as shadow:
        reach = Reach(kernel, shadow)
        assert reach.reaches(commands[USER])
        assert not reach.reaches(commands[READER])
        # What is not compiled would not differ.
        flags = Variant.SECTIONS.flags
        before, after = side_by_side(
            [
                partial(compile_original, kernel, commands[READER], Variant.SECTIONS),
                partial(
                    compile_unit,
                    kernel,
                    commands[READER],
                    output=tmp_path / "after.o",
                    shadow=shadow,
                    extra_flags=flags,
                ),
            ]
        )
    assert before.path.read_bytes() == after.path.read_bytes()
    outcome = pipeline.check([fix], kernel)
    assert outcome.verdict is Verdict.PATCHABLE
    assert {each.unit for each in outcome.functions} == {USER}
    assert 0 < len(outcome.functions) < 12


def test_batches_change_nothing(
    kernel: Kernel,
    fix_of: Callable[[Mapping[str, object]], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two units at a time, each dropped when it is cut: the pieces are those of all at once."""
    fix = fix_of(EVERYWHERE)
    whole = pipeline.check([fix], kernel)
    monkeypatch.setattr(pipeline, "FIRST_READERS", 2)
    monkeypatch.setattr(units, "FEW_CANDIDATES", 2)
    monkeypatch.setattr(pipeline, "IN_A_BATCH", 2)
    monkeypatch.setattr(compiled, "IN_A_BATCH", 2)
    some = pipeline.check([fix], kernel)
    assert whole.changes is not None and some.changes is not None
    assert {piece.unit: piece.data for piece in some.changes.pieces} == {
        piece.unit: piece.data for piece in whole.changes.pieces
    }
    assert len(some.changes.pieces) == 3
    assert set(some.functions) == set(whole.functions)


def test_a_layout_is_refused_by_the_first_units(
    kernel: Kernel,
    fix_of: Callable[[Mapping[str, object]], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The others are not asked any more, and that is said."""
    asked: list[str] = []
    reaches = Reach.reaches

    def ask(reach: Reach, command: Command) -> bool:
        asked.append(command.source)
        return reaches(reach, command)

    monkeypatch.setattr(Reach, "reaches", ask)
    monkeypatch.setattr(pipeline, "FIRST_READERS", 1)
    monkeypatch.setattr(units, "FEW_CANDIDATES", 1)
    member = "struct msdos_inode_info {\n"
    fix = fix_of(
        {HEADER: (member, f"{member}\tlong more;\n"), USER: (BODY, f"{BODY}\tbarrier();\n")}
    )
    outcome = pipeline.check([fix], kernel)
    assert outcome.verdict is Verdict.REFUSED
    found = {(reason.rule, reason.object) for reason in outcome.reasons}
    assert ("structure-layout", "struct msdos_inode_info") in found, found
    assert len(asked) == 1
    assert any("not all units were looked at" in warning for warning in outcome.warnings)
    every = pipeline.check([fix], kernel, thorough=True)
    assert found <= {(reason.rule, reason.object) for reason in every.reasons}
    assert len(asked) > 4
    assert not any("looked at" in warning for warning in every.warnings)


@pytest.mark.parametrize("first", [1, pipeline.FIRST_READERS])
def test_no_more_units_than_asked_for(
    kernel: Kernel,
    fix_of: Callable[[Mapping[str, object]], Path],
    monkeypatch: pytest.MonkeyPatch,
    first: int,
) -> None:
    """Whether the first look finds them, or the second; exactly as many are none too many."""
    fix = fix_of(EDIT)
    readers = len(units_of(Fix.load([fix]).apply(kernel.source), kernel).units)
    monkeypatch.setattr(pipeline, "FIRST_READERS", first)
    monkeypatch.setattr(units, "FEW_CANDIDATES", 1)
    with pytest.raises(Refused) as caught:
        pipeline.check([fix], kernel, units=readers - 1)
    assert [(each.rule, each.object) for each in caught.value.reasons] == [
        ("too-many-units", HEADER)
    ]
    assert pipeline.check([fix], kernel, units=readers).verdict is Verdict.PATCHABLE


def test_a_declaration_that_nobody_uses_changes_nothing(
    kernel: Kernel, fix_of: Callable[[Mapping[str, object]], Path]
) -> None:
    """A new function, a new macro and a new structure in a header, and one user of them."""
    new = (
        "#define LG_EIGHT 8\nstruct lg_number { int number; };\n"
        "static inline int lg_eight(const struct lg_number *n)\n{\n\treturn n->number + LG_EIGHT;"
        "\n}\n"
    )
    fix = fix_of(
        {
            HEADER: ("struct fat_entry {\n", f"{new}struct fat_entry {{\n"),
            USER: (
                BODY,
                f"{BODY}\tstruct lg_number number = {{ offset }};\n\n"
                "\toffset = lg_eight(&number) - LG_EIGHT;\n",
            ),
        }
    )
    changes = Fix.load([fix]).apply(kernel.source)
    commands = learn(kernel, units_of(changes, kernel).units)
    with shadow_of(kernel.source, changes) as shadow:
        reached = find_reached(kernel, commands, shadow, SILENT)
    assert reached.variant is Variant.TYPES and len(commands) > 3
    assert [unit.path for unit in reached.commands] == [USER]
    assert pipeline.check([fix], kernel).verdict is not Verdict.REFUSED
