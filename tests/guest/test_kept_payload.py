# SPDX-License-Identifier: GPL-2.0-or-later
"""A payload that was built with ABI 1 and is kept: every later engine and runtime has to run it.

``tests/data/payload-abi1.ko`` is ``demo/sample.patch`` built for 6.1.0-55-amd64. It is never built
again: that it is old is its purpose.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from livegraft.errors import PackageMissing, UnknownRelease
from livegraft.kernel.kernel import Kernel, prepare
from livegraft.lab.boot import boot
from livegraft.lab.guest import Guest
from livegraft.module.engine import NAME
from livegraft.module.inspect import inspect_module

KEPT = Path(__file__).parents[1] / "data/payload-abi1.ko"
RELEASE = "6.1.0-55-amd64"
MARK = "livegraft.sample=1"

pytestmark = pytest.mark.guest


@pytest.fixture(scope="module")
def guest() -> Iterator[Guest]:
    try:
        kernel = prepare(RELEASE)
    except (PackageMissing, UnknownRelease) as error:
        pytest.skip(f"{error}; give the archived packages with 'livegraft prepare --packages'")
    with boot(kernel.vmlinuz, kernel.modules, files={"/root/kept.ko": KEPT}) as guest:
        yield guest


def marked(guest: Guest) -> bool:
    return MARK in guest.get("/proc/cmdline").decode()


def test_it_can_still_be_read() -> None:
    inspection = inspect_module(KEPT)
    assert inspection.name == "livegraft_abi1"
    assert [each.target.name for each in inspection.redirections] == ["cmdline_proc_show"]


def test_it_still_runs_under_native(guest: Guest) -> None:
    words = ["python3", "-m", "livegraft.runtime"]
    loaded = json.loads(guest.check([*words, "load", "/root/kept.ko", "--json"]).stdout)
    assert loaded["state"] == "enabled"
    assert marked(guest)
    guest.check([*words, "unload", "livegraft_abi1"])
    assert not marked(guest)


@pytest.mark.parametrize("model", ["hybrid", "stop", "task"])
def test_without_the_engine_it_answers_enodev_and_changes_nothing(guest: Guest, model: str) -> None:
    result = guest.run(["insmod", "/root/kept.ko", f"model={model}"])
    assert result.status != 0
    assert "No such device" in result.stderr.decode()
    assert not marked(guest)
    assert guest.run(["test", "-e", "/sys/module/livegraft_abi1"]).status != 0
    assert "needs the engine module" in guest.kernel_log()[-1].text


@pytest.fixture(scope="module")
def with_engine(guest: Guest, engine: Callable[[Kernel], Path]) -> Guest:
    """What comes after it has the engine."""
    guest.insert(NAME, engine(prepare(RELEASE)).read_bytes())
    return guest


@pytest.mark.parametrize("model", ["hybrid", "stop", "task"])
def test_todays_engine_runs_it(with_engine: Guest, model: str) -> None:
    words = ["python3", "-m", "livegraft.runtime"]
    done = with_engine.check([*words, "load", "/root/kept.ko", "--model", model, "--json"])
    assert (json.loads(done.stdout)["state"], marked(with_engine)) == ("enabled", True)
    with_engine.check([*words, "unload", "livegraft_abi1"])
    assert not marked(with_engine)
