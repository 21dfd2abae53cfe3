# SPDX-License-Identifier: GPL-2.0-or-later
"""Functions into which the boot writes constants: one that can be patched, one that cannot."""

from __future__ import annotations

from pathlib import Path

import pytest

from livegraft import pipeline
from livegraft.elf import object as elf
from livegraft.kernel.image import open_image
from livegraft.kernel.kernel import Kernel
from livegraft.pipeline import Verdict

DATA = Path(__file__).parents[1] / "data"
PLACEHOLDER = 0x0123456789ABCDEF.to_bytes(8, "little")

pytestmark = pytest.mark.build


def has_constants(kernel: Kernel) -> bool:
    return any(each.name.startswith("runtime_") for each in open_image(kernel).sections)


def test_a_constant_is_read_from_its_variable(newest_kernel: Kernel, tmp_path: Path) -> None:
    output = tmp_path / "read.ko"
    pipeline.build([DATA / "runtime-const.patch"], newest_kernel, output=output)
    obj = elf.read(output)
    assert not any(PLACEHOLDER in section.data for section in obj.sections)
    imported = {symbol.name for symbol in obj.symbols if symbol.is_undefined}
    assert ("USER_PTR_MAX" in imported) == has_constants(newest_kernel)


def test_a_shift_by_a_constant_reads_its_variable(newest_kernel: Kernel) -> None:
    outcome = pipeline.check([DATA / "runtime-const-shift.patch"], newest_kernel)
    assert outcome.verdict is Verdict.PATCHABLE
