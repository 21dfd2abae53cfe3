# SPDX-License-Identifier: GPL-2.0-or-later
"""What each model promises, and no more: counted while user space does what it can.

The functions of lgc_target (``lab/witness``) record which versions of two others they have met. A
payload that replaces all of them comes and goes under each model. The last run is the negative
control: an engine made for it moves tasks without looking, and that has to be seen.

The short run takes one machine of 6.1. ``make soak`` takes all of both, with a processor that goes
and comes, and a hundred cycles (``LIVEGRAFT_TEST_CYCLES``).
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tests.releases import RELEASES

from livegraft.kernel.kernel import Kernel, prepare
from livegraft.lab.boot import boot
from livegraft.lab.guest import Guest
from livegraft.lab.trial import FAULT
from livegraft.lab.witnesses import witnesses
from livegraft.module import engine

pytestmark = [pytest.mark.guest, pytest.mark.build, pytest.mark.timeout(7200)]

NATIVE, HYBRID, STOP, TASK = MODELS = ("native", "hybrid", "stop", "task")
CONTROL = "control"

SHORT = 5
MORE = 10
"""Runs of the kernel's own core, at most, until it has shown what it does not see."""

LONG = int(os.environ.get("LIVEGRAFT_TEST_CYCLES", "100"))
STALL = 120
"""Seconds for one direction of a cycle. Only a machine that is busy otherwise comes near."""

COMMON = "calls=1 apart=4 threads=1 hog=1 forks=1 exec=1 signals=1 stops=1 uring=1"
DENSE = f"{COMMON} sleeps=1 cold=2 busy=1"
SPARSE = f"{COMMON} rarely=1"
"""Some time has to come when nobody is inside, or the model stop never ends."""

LIGHT = "calls=1 apart=4 cold=1 forks=1 uring=1 slumbers=2 cold-slumbers=2"
"""On 6.12 the kernel's own core rewrites preemption's calls for each transition. Emulated
processors that have something else to do take minutes for that."""

LOADS = {NATIVE: LIGHT, STOP: SPARSE}

INTERRUPTS = ("softirq", "hardirq", "nmi")
PATCHED = ("syscall", "exit", "worker", "kthread", "cold", *INTERRUPTS)
"""Contexts in which the caller is in the patch."""

APART = ("apart", "apart-exit", "apart-bh")
"""Contexts in which it is not; in the last one bottom halves are off, which is no interrupt."""


@dataclass(frozen=True)
class Machine:
    """A guest: its kernel and how that is run."""

    release: str
    cpus: int
    preempt: str
    soak: bool = False

    def __str__(self) -> str:
        return f"{self.release}-{self.cpus}-{self.preempt}"


def machines() -> Iterator[Any]:
    for number, release in enumerate(RELEASES):
        one = Machine(release, *((2, "full") if number == 0 else (4, "voluntary")))
        # The kernel's own core takes up to a minute for a change on 6.12.
        later = [pytest.mark.soak] if number else []
        yield pytest.param(one, id=f"{one}-short", marks=later)
        for cpus, preempt in itertools.product((2, 4), ("voluntary", "full")):
            each = Machine(release, cpus, preempt, soak=True)
            yield pytest.param(each, id=str(each), marks=pytest.mark.soak)


@dataclass
class Outcome:
    """What was counted under a model: calls by version, and at last those that were mixed."""

    counts: dict[str, list[int]] = field(default_factory=dict)
    times: list[list[float]] = field(default_factory=list)
    stalled: str | None = None

    def mixed(self, *contexts: str) -> int:
        return sum(self.counts[each][-1] for each in contexts)

    def __add__(self, later: Outcome) -> Outcome:
        counts = {
            name: [sum(both) for both in zip(numbers, later.counts[name], strict=True)]
            for name, numbers in self.counts.items()
        }
        return Outcome(counts, self.times + later.times, self.stalled or later.stalled)


def run_cycles(guest: Guest, model: str, machine: Machine) -> Outcome:
    cycles = LONG if machine.soak else SHORT
    if model == NATIVE:
        cycles = max(cycles // 10, 2)
    load = LOADS.get(model, DENSE)
    if machine.soak:
        load += " hotplug=1"
    way = HYBRID if model == CONTROL else model
    words = ["python3", "-S", "-m", "livegraft.lab.witness.driver", way, str(cycles), str(STALL)]
    words += load.split()
    result = guest.check(words, timeout=120 + 2 * cycles * STALL)
    return Outcome(**json.loads(result.stdout))


def control_engine(kernel: Kernel, folder: Path) -> Path:
    """The engine with the model that does not look."""
    found = engine.sources()
    found["Kbuild"] += b"ccflags-y += -DLG_TEST\n"
    return engine.make(folder, found, kernel)


@pytest.fixture(scope="module", params=machines())
def outcomes(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Outcome]:
    machine: Machine = request.param
    kernel = prepare(machine.release)
    files = witnesses(kernel)
    files["/ko/engine_test.ko"] = control_engine(kernel, tmp_path_factory.mktemp("engine_test"))
    found = {}
    with boot(
        kernel.vmlinuz,
        kernel.modules,
        files=files,
        cmdline=f"preempt={machine.preempt}",
        cpus=machine.cpus,
        timeout=180,
    ) as guest:
        guest.check(["insmod", "/ko/livegraft_engine.ko"])
        assert guest.run(["test", "-e", "/sys/module/livegraft_engine/parameters"]).status != 0
        guest.check(["insmod", "/ko/lgc_target.ko"])
        guest.check(["grep", "-w", r"lgc_cold\.cold", "/proc/kallsyms"])
        guest.check(["sh", "-c", "echo -n i20000 > /proc/lgc; echo -n t2 > /proc/lgc"])
        for model in MODELS:
            found[model] = run_cycles(guest, model, machine)
            print(machine, model, found[model])
        # What it does not see has to show once, and need not within two cycles.
        for _ in range(MORE):
            if found[NATIVE].mixed("cold") and found[NATIVE].mixed(*APART):
                break
            found[NATIVE] += run_cycles(guest, NATIVE, machine)
        guest.check(["rmmod", "livegraft_engine"])
        guest.check(["insmod", "/ko/engine_test.ko"])
        found[CONTROL] = run_cycles(guest, CONTROL, machine)
        print(machine, CONTROL, found[CONTROL])
        guest.check(["rmmod", "lgc_target", "livegraft_engine"])
        log = [each.text for each in guest.kernel_log()]
    assert [text for text in log if FAULT.search(text)] == []
    return found


def test_every_change_came_to_its_end(outcomes: dict[str, Outcome]) -> None:
    assert {name: each.stalled for name, each in outcomes.items() if each.stalled} == {}


def test_every_context_has_called_both_versions(outcomes: dict[str, Outcome]) -> None:
    for name, each in outcomes.items():
        for context, counted in each.counts.items():
            if context != "late":
                old, new, other, _ = counted
                assert (old > 0, new > 0, other) == (True, True, 0), (name, context)


@pytest.mark.parametrize("model", MODELS)
def test_a_patched_caller_sees_one_version(model: str, outcomes: dict[str, Outcome]) -> None:
    contexts = [each for each in PATCHED if model != NATIVE or each != "cold"]
    assert {each: outcomes[model].mixed(each) for each in contexts} == dict.fromkeys(contexts, 0)


def test_the_kernels_own_core_does_not_see_cold_parts(outcomes: dict[str, Outcome]) -> None:
    assert outcomes[NATIVE].mixed("cold") > 0


@pytest.mark.parametrize("model", MODELS)
def test_a_caller_that_is_not_patched(model: str, outcomes: dict[str, Outcome]) -> None:
    """It sees one version for as long as it is in the kernel under task, and only there."""
    mixed = outcomes[model].mixed(*APART)
    assert (mixed == 0) == (model == TASK), mixed


def test_stop_changes_the_whole_machine_at_once(outcomes: dict[str, Outcome]) -> None:
    late = {model: outcomes[model].counts["late"][0] for model in MODELS}
    assert late[STOP] == 0
    assert late[NATIVE] + late[HYBRID] + late[TASK] > 0, late


def test_an_engine_that_does_not_look_is_found_out(outcomes: dict[str, Outcome]) -> None:
    """The negative control."""
    assert outcomes[CONTROL].mixed(*PATCHED) > 0
    assert outcomes[CONTROL].mixed("cold") > 0
