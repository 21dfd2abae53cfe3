# SPDX-License-Identifier: GPL-2.0-or-later
"""A unit that is linked into two modules: each copy is proved, compared and cut for itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from tests.fixes import Edits

from livegraft import assessment, pipeline
from livegraft.changeset import State
from livegraft.errors import ModuleError
from livegraft.kbuild import proof
from livegraft.kbuild.placement import Placement
from livegraft.kernel.kernel import Kernel
from livegraft.module.pieces import make_linkable
from livegraft.pipeline import Method

pytestmark = pytest.mark.build

DRIVERS = ("liquidio", "liquidio_vf")
FOLDER = "drivers/net/ethernet/cavium/liquidio"
FUNCTION = "octeon_init_device_list"
CALLED = "\tmemset(octeon_device, 0, (sizeof(void *) * MAX_OCTEON_DEVICES));\n"
COUNT = """
unsigned int lg_count(void);
unsigned int lg_count(void)
{
	static unsigned int count;

	return ++count;
}
"""
EDITS: Edits = {
    f"{FOLDER}/octeon_device.c": [
        (
            f"void {FUNCTION}(int conf_type)\n{{\n",
            f"unsigned int lg_count(void);\nvoid {FUNCTION}(int conf_type)\n{{\n",
        ),
        (CALLED, f'{CALLED}\tpr_info("lg: %ps, %u\\n", octeon_device, lg_count());\n'),
    ],
    f"{FOLDER}/octeon_mem_ops.c": COUNT,
}
"""The fix tells which driver's variable a function works on, and counts in a new variable of
another shared unit."""


def test_each_object_has_its_own(
    kernel: Kernel, fix_of: Callable[[Edits], Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    proved: list[tuple[str, str]] = []
    prove = proof.prove

    def watch(kernel: Kernel, unit: str, owner: str, *rest: object) -> Placement:
        proved.append((unit, owner))
        return prove(kernel, unit, owner, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(assessment, "prove", watch)
    fix = fix_of(EDITS)
    built = pipeline.build([fix], kernel, output=tmp_path / "lg.ko", method=Method.BOTH)
    assert sorted(proved) == sorted((unit, driver) for unit in EDITS for driver in DRIVERS)
    functions = built.outcome.functions
    changed = [each for each in functions if each.state is State.CHANGED]
    assert {(each.target.object, each.target.name) for each in changed} == {
        (driver, FUNCTION) for driver in DRIVERS
    }
    assert len({each.symbol for each in changed}) == 2
    changes = built.outcome.changes
    assert changes is not None and built.second is not None
    for piece in changes.pieces:
        inside = {each.target.object for each in piece.references} - {"vmlinux"}
        assert inside <= {piece.object}, "a copy refers to the other driver's variables"
    # One text for a reviewer, whichever object it is of.
    assert len({each.unit for each in built.outcome.extracted}) == len(built.outcome.extracted)
    foreign = replace(changes.pieces[0], object="vmlinux", functions=(), references=())
    with pytest.raises(ModuleError, match="each its own"):
        make_linkable(replace(changes, pieces=(*changes.pieces, foreign)), lambda _: True)
