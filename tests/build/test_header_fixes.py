# SPDX-License-Identifier: GPL-2.0-or-later
"""A fix of an inline function of a header: the units that use it, and their changed functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import pytest

from livegraft import pipeline
from livegraft.fix.fix import Fix
from livegraft.fix.reach import is_reached
from livegraft.fix.units import units_of
from livegraft.kbuild.command import learn
from livegraft.kbuild.compile import Variant, compile_original, compile_unit, side_by_side
from livegraft.kbuild.shadow import shadow_of
from livegraft.kernel.kernel import Kernel
from livegraft.pipeline import Verdict

pytestmark = pytest.mark.build

HEADER, USER, READER = "fs/ext4/mballoc.h", "fs/ext4/mballoc.c", "fs/ext4/super.c"
EDIT = {
    HEADER: (
        "return ext4_group_first_block_no(sb, fex->fe_group) +",
        "return 8 + ext4_group_first_block_no(sb, fex->fe_group) +",
    )
}


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
        assert is_reached(kernel, commands[USER], shadow)
        assert not is_reached(kernel, commands[READER], shadow)
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
