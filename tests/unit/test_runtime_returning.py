# SPDX-License-Identifier: GPL-2.0-or-later
"""Modules that cannot come back under a patch, and refusals that the kernel's log explains."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from livegraft.runtime import returning
from livegraft.runtime.livepatch import Livepatches
from livegraft.runtime.state import status
from livegraft.runtime.syscalls import LOAD_ERRORS, refusal

SECTIONS = (".text", ".klp.rela.vmlinux.text", ".klp.rela.ext4.text", ".klp.rela.ext4.data.x")


def machine(root: Path, symbols: str, model: str = "native") -> Livepatches:
    """A machine with one patch that refers to ext4."""
    patch = root / "sys/kernel/livepatch/livegraft_fix"
    (patch / "ext4").mkdir(parents=True)
    for name, value in (("enabled", "1"), ("transition", "0"), ("ext4/patched", "1")):
        (patch / name).write_text(value)
    module = root / "sys/module/livegraft_fix"
    for name in SECTIONS:
        (module / "sections").mkdir(parents=True, exist_ok=True)
        (module / "sections" / name).touch()
    (module / "parameters").mkdir()
    (module / "parameters/livegraft").write_text(f"1:{'a5' * 32}")
    (module / "parameters/model").write_text(model)
    (module / "initstate").write_text("live")
    (root / "proc").mkdir()
    (root / "proc/modules").write_text("livegraft_fix 16384 1 - Live 0x0\n")
    (root / "proc/kallsyms").write_text(symbols)
    return Livepatches(root)


OLD = "ffffffff81000000 T klp_enable_patch\n"
NEW = OLD + "ffffffff81000040 T clear_relocate_add\n"


@pytest.mark.parametrize(
    ("symbols", "model", "told"), [(OLD, "native", 1), (NEW, "native", 0), (OLD, "hybrid", 0)]
)
def test_status_tells_before_it_bites(symbols: str, model: str, told: int, tmp_path: Path) -> None:
    (found,) = status(patches=machine(tmp_path, symbols, model))
    assert [("ext4" in text and "not loaded again" in text) for text in found.warnings] == (
        [True] * told
    )


def test_only_modules_count() -> None:
    assert returning.relocated_modules(SECTIONS) == ("ext4",)
    assert returning.relocated_modules(SECTIONS[:2]) == ()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (
            "livepatch: pre-patch callback failed for object 'ext4'",
            "its own pre_patch callback for ext4 has refused it",
        ),
        (
            "livepatch: patch (a) is not compatible with the already installed livepatches.",
            "same system state in a later version",
        ),
    ],
)
def test_the_log_explains_more_than_a_number(line: str, said: str, tmp_path: Path) -> None:
    """A callback may return any number, EPERM too, which else means a lack of rights."""
    error = refusal("a", errno.EPERM, LOAD_ERRORS, ["noise", line], root=tmp_path)
    assert said in error.problem
    assert "[EPERM]" in error.problem
    assert error.remedy
    plain = refusal("a", errno.EPERM, LOAD_ERRORS, ["noise"], root=tmp_path)
    assert said not in plain.problem
