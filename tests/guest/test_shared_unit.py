# SPDX-License-Identifier: GPL-2.0-or-later
"""A unit that is linked into two modules, live: each has its copy, and each copy gets the fix.

``octeon_init_device_list()`` runs when either driver is inserted, hardware or not.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from tests.build.test_shared_unit_kernel import DRIVERS, EDITS, FUNCTION
from tests.fixes import write_fix

from livegraft import pipeline
from livegraft.kernel.kernel import Kernel
from livegraft.lab.boot import boot
from livegraft.lab.guest import Guest
from livegraft.lab.modules import ModuleFolder
from livegraft.pipeline import Built, Method

pytestmark = [pytest.mark.guest, pytest.mark.build]


@pytest.fixture(scope="module")
def built(one_kernel: Kernel, tmp_path_factory: pytest.TempPathFactory) -> Built:
    """By compare; extract's module is beside it."""
    folder = tmp_path_factory.mktemp("shared")
    fix = write_fix(one_kernel, EDITS, folder)
    output = folder / "lg_shared.ko"
    return pipeline.build([fix], one_kernel, output=output, method=Method.BOTH)


def modules(built: Built) -> Mapping[str, Path]:
    assert built.second is not None
    return {"compare": built.path, "extract": built.second.path}


@pytest.mark.parametrize("method", ["compare", pytest.param("extract", marks=pytest.mark.soak)])
def test_both_copies_run_the_fix(one_kernel: Kernel, built: Built, method: str) -> None:
    """One driver is there when the patch is loaded, and the other comes afterwards; then the other
    way round."""
    folder = ModuleFolder(one_kernel.modules)
    files: dict[str, bytes | Path] = {f"/ko/{name}.ko": folder.content(name) for name in DRIVERS}
    files["/ko/lg_shared.ko"] = modules(built)[method]
    with boot(one_kernel.vmlinuz, one_kernel.modules, files=files) as guest:
        for first, second in (DRIVERS, DRIVERS[::-1]):
            before = guest.kernel_log()[-1].sequence
            guest.check(["insmod", f"/ko/{first}.ko"])
            assert not said(guest, first, before), "the control: without the patch nothing is said"
            runtime(guest, "load", "/ko/lg_shared.ko")
            assert patched(guest) == {first}
            guest.check(["insmod", f"/ko/{second}.ko"])
            assert patched(guest) == set(DRIVERS)
            assert said(guest, second, before) == [f"lg: octeon_device [{second}], 1"]
            runtime(guest, "unload", "livegraft_lg_shared")
            for driver in DRIVERS:
                guest.check(["rmmod", driver])


def runtime(guest: Guest, *words: str) -> None:
    guest.check(["python3", "-m", "livegraft.runtime", *words], timeout=120)


def said(guest: Guest, driver: str, after: int) -> list[str]:
    log = [each.text for each in guest.kernel_log() if each.sequence > after]
    found = [text for text in log if "lg: " in text]
    return [text[text.index("lg: ") :] for text in found if f"[{driver}]" in text]


def patched(guest: Guest) -> set[str]:
    """The drivers whose function is redirected."""
    text = guest.get("/sys/kernel/tracing/enabled_functions").decode()
    lines = [words for words in map(str.split, text.splitlines()) if words[0] == FUNCTION]
    return {word.strip("[]") for words in lines for word in words if word.strip("[]") in DRIVERS}
