# SPDX-License-Identifier: GPL-2.0-or-later
"""Who else has a function, which settings keep patches out, and what stacks tell beforehand."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from livegraft.errors import PatchError
from livegraft.runtime import cold, redirections, settings
from livegraft.runtime.forecasting import Observation, outlook
from livegraft.runtime.livepatch import ENGINE, Livepatches
from livegraft.runtime.model import ModelName
from livegraft.runtime.payload import CHANGED, Manifest, PatchedFunction, PatchedObject, Payload
from livegraft.runtime.redirections import Kind
from livegraft.runtime.stacks import Code
from livegraft.trust import appended

SHOW = ("vmlinux", "cmdline_proc_show")
ANSWER = ("lgt_target", "lgt_answer")

KPROBE = (
    "cmdline_proc_show (1) R I  \ttramp: 0xffffffffc021e000 (kprobe_ftrace_handler+0x0/0x1b0) "
    "->kprobe_ftrace_handler+0x0/0x1b0\n"
)
KLP = (
    "cmdline_proc_show (1)   I  \ttramp: 0xffffffffc0242000 (klp_ftrace_handler+0x0/0x110) "
    "->klp_ftrace_handler+0x0/0x110\n"
    "lgt_answer [lgt_target] (1)   I  \ttramp: 0xffffffffc0244000 (klp_ftrace_handler+0x0/0x110) "
    "->klp_ftrace_handler+0x0/0x110\n"
)
BPF = "cmdline_proc_show (1) R   D \n\tdirect-->bpf_trampoline_6442501234+0x0/0x1000\n"
BOTH = (
    "cmdline_proc_show (2) R I D \ttramp: ERROR!\n\tdirect-->bpf_trampoline_6442501234+0x0/0x1000\n"
)
STUB = "cmdline_proc_show (1) R   D \n\tdirect-->lg_stub+0x0/0x120 [livegraft_engine]\n"
TRACED = "cmdline_proc_show (1)       \ttramp: 0xffffffffc0242000 (function_trace_call+0x0/0x110)\n"
TOUCHED = "cmdline_proc_show (0)      M \n"


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def machine(root: Path, enabled: str, kallsyms: str = "") -> Livepatches:
    write(root / "sys/kernel/tracing/enabled_functions", enabled)
    write(root / "proc/kallsyms", kallsyms)
    write(root / "proc/modules", "")
    return Livepatches(root)


def check(patches: Livepatches, model: str, direct: bool = True) -> tuple[str, ...]:
    return redirections.check("fix", [SHOW], model, direct, patches)


@pytest.mark.parametrize(
    ("enabled", "kind"),
    [(KPROBE, Kind.KPROBE), (KLP, Kind.LIVEPATCH), (BPF, Kind.BPF), (STUB, Kind.ENGINE)],
)
def test_owners(tmp_path: Path, enabled: str, kind: Kind) -> None:
    (only,) = redirections.of([SHOW], machine(tmp_path, enabled)) or []
    assert (only.function, only.kind) == (SHOW, kind)
    assert not redirections.of([("xfs", "cmdline_proc_show")], machine(tmp_path, enabled))


@pytest.mark.parametrize("enabled", [TRACED, TOUCHED, ""])
def test_what_redirects_nothing(tmp_path: Path, enabled: str) -> None:
    assert redirections.of([SHOW], machine(tmp_path, enabled)) == []


@pytest.mark.parametrize(
    ("enabled", "model", "direct", "shared"),
    [
        (KPROBE, "native", True, False),
        (KPROBE, "hybrid", True, False),
        (KLP, "native", True, True),
        (KLP, "stop", True, False),
        (KLP, "stop", False, False),
        (BPF, "native", True, True),
        (BPF, "task", True, False),
        (BPF, "task", False, True),
        (STUB, "native", True, False),
        (STUB, "hybrid", True, True),
        (STUB, "hybrid", False, True),
        (TRACED, "native", True, True),
    ],
)
def test_who_shares_with_whom(
    tmp_path: Path, enabled: str, model: str, direct: bool, shared: bool
) -> None:
    patches = machine(tmp_path, enabled)
    if shared:
        check(patches, model, direct)
        return
    with pytest.raises(PatchError, match="cmdline_proc_show is redirected by") as caught:
        check(patches, model, direct)
    assert caught.value.remedy
    assert ("--no-direct" in caught.value.remedy) == (enabled is BPF)


def test_what_shares_is_told(tmp_path: Path) -> None:
    assert check(machine(tmp_path, BPF), "native") == (
        "cmdline_proc_show is redirected by a BPF program as well",
    )


def test_patches_are_named(tmp_path: Path) -> None:
    patches = machine(tmp_path, KLP)
    for core, name in (("sys/kernel/livepatch", "older"), (ENGINE, "unrelated")):
        write(tmp_path / core / name / "enabled", "1\n")
        write(tmp_path / core / name / "transition", "0\n")
    write(tmp_path / "sys/kernel/livepatch/older/vmlinux/patched", "1\n")
    (tmp_path / "sys/kernel/livepatch/older/vmlinux/cmdline_proc_show,1").mkdir()
    write(tmp_path / "proc/modules", "older 1 1 - Live 0x0\nunrelated 1 1 - Live 0x0\n")
    with pytest.raises(PatchError, match="the live patch older"):
        check(patches, "hybrid")


def test_a_patch_is_no_stranger_to_itself(tmp_path: Path) -> None:
    """Beside BPF its own handler is not told: that must not be taken for another's."""
    patches = machine(tmp_path, BOTH)
    folder = tmp_path / "sys/kernel/livepatch/fix"
    write(folder / "enabled", "1\n")
    write(folder / "transition", "0\n")
    write(tmp_path / "sys/module/fix/initstate", "live\n")
    write(tmp_path / "proc/modules", "fix 1 1 - Live 0x0\n")
    found = redirections.of([SHOW], patches, but="fix") or []
    assert [each.kind for each in found] == [Kind.BPF]


def test_a_name_that_is_not_unique_is_left_to_the_kernel(tmp_path: Path) -> None:
    symbol = "ffffffff814105a0 t cmdline_proc_show\n"
    (caution,) = check(machine(tmp_path, KPROBE, 2 * symbol), "native")
    assert "a function of the same name" in caution
    with pytest.raises(PatchError):
        check(machine(tmp_path, KPROBE, symbol), "native")


def test_without_tracefs_that_is_told(tmp_path: Path) -> None:
    (caution,) = check(Livepatches(tmp_path), "native")
    assert "tracefs" in caution


# -- settings ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("place", "value", "signed_helps"),
    [
        ("proc/sys/kernel/modules_disabled", "1", False),
        ("proc/sys/kernel/ftrace_enabled", "0", False),
        ("sys/kernel/security/lockdown", "none [integrity] confidentiality", True),
        ("sys/kernel/security/lockdown", "none integrity [confidentiality]", True),
        ("sys/module/module/parameters/sig_enforce", "Y", True),
    ],
)
def test_settings(tmp_path: Path, place: str, value: str, signed_helps: bool) -> None:
    settings.check("fix", b"", tmp_path)
    write(tmp_path / place, value + "\n")
    with pytest.raises(PatchError, match="nothing was changed") as caught:
        settings.check("fix", b"", tmp_path)
    assert caught.value.remedy
    if signed_helps:
        settings.check("fix", b"..." + appended.MARK, tmp_path)
    else:
        with pytest.raises(PatchError):
            settings.check("fix", appended.MARK, tmp_path)


def test_settings_that_are_harmless(tmp_path: Path) -> None:
    write(tmp_path / "sys/kernel/security/lockdown", "[none] integrity confidentiality\n")
    write(tmp_path / "sys/module/module/parameters/sig_enforce", "N\n")
    write(tmp_path / "proc/sys/kernel/ftrace_enabled", "1\n")
    settings.check("fix", b"", tmp_path)


# -- cold parts -------------------------------------------------------------------------------


def payload(names: Mapping[str, str], cold: Callable[[str], bool | None]) -> Payload:
    """A patch that changes functions of one letter."""
    objects = tuple(
        PatchedObject(
            owner, "", tuple(PatchedFunction(name, 1, CHANGED, "", cold(name)) for name in those)
        )
        for owner, those in names.items()
    )
    return Payload(Path("fix.ko"), b"", "fix", "", Manifest("fix", "", "", "", objects, "", True))


def test_cold_parts_by_their_symbols(tmp_path: Path) -> None:
    write(
        tmp_path / "proc/kallsyms",
        "ffffffff81 t f\nffffffff82 t f.cold\nffffffffc0 t g.cold.3\t[ext4]\nffffffffc1 t h.cold\n",
    )
    names = {"vmlinux": "fi", "ext4": "gh"}
    patches = Livepatches(tmp_path)
    code = cold.parts_of(payload(names, lambda _: None), (), patches)
    assert code.functions == {("vmlinux", "f"), ("ext4", "g")}
    # Where the manifest tells, the kernel is not asked.
    code = cold.parts_of(payload(names, lambda name: name in "ih"), (), patches)
    assert code == Code(frozenset({("vmlinux", "i"), ("ext4", "h")}), cold_only=True)


def test_cold_parts_of_the_patches_that_are_there(tmp_path: Path) -> None:
    """A task that sleeps in one would run on in the older code."""
    for name, section in (("older", ".text.unlikely"), ("warm", ".text")):
        write(tmp_path / "sys/module" / name / "sections" / section, "")
    nothing = payload({}, lambda _: False)
    code = cold.parts_of(nothing, ("older", "warm"), Livepatches(tmp_path))
    assert code == Code(frozenset(), frozenset({"older"}), cold_only=True)
    for tid, frame in ((1, "f+0x1/0x9 [older]"), (2, "f.cold+0x1/0x9 [warm]")):
        add_task(tmp_path / "proc", tid, f"[<0>] {frame}\n")
    assert cold.wait_until_left(code, 5, tmp_path)[1]
    add_task(tmp_path / "proc", 3, "[<0>] f.cold+0x1/0x9 [older]\n")
    looks, left = cold.wait_until_left(code, 0.05, tmp_path)
    assert not left and [each.pid for each in looks.again(tmp_path).after] == [3]
    assert looks.as_json()["patches"] == ["older"]


def add_task(proc: Path, tid: int, stack: str, flags: int = 0, call: str = "running") -> None:
    folder = proc / str(tid) / "task" / str(tid)
    write(folder / "comm", f"task{tid}\n")
    write(folder / "status", "State:\tS (sleeping)\n")
    write(folder / "stat", f"{tid} (a) b) S 1 1 1 0 -1 {flags} 0 0\n")
    write(folder / "stack", stack)
    write(folder / "syscall", call)


def test_only_the_cold_part_counts(tmp_path: Path) -> None:
    code = Code(frozenset({("vmlinux", "f")}), cold_only=True)
    add_task(tmp_path / "proc", 1, "[<0>] f+0x1/0x9\n")
    looks, left = cold.wait_until_left(code, 5, tmp_path)
    assert (left, looks.before, looks.waited_ms) == (True, (), 0)
    add_task(tmp_path / "proc", 2, "[<0>] f.cold+0x1/0x9\n")
    looks, left = cold.wait_until_left(code, 0.05, tmp_path)
    assert not left and looks.waited_ms >= 50
    assert [each.pid for each in looks.before] == [2]
    assert [each.pid for each in looks.again(tmp_path).after] == [2]
    assert "task2 (pid 2) inside f.cold ran on in the old code" in looks.again(tmp_path).warnings[0]


# -- a forecast -------------------------------------------------------------------------------

INSIDE = "[<0>] msleep+0x1/0x9\n[<0>] f.cold+0x1/0x9\n"
OUTSIDE = "[<0>] msleep+0x1/0x9\n"
KTHREAD = 0x00200000


def observe(proc: Path, *looks: dict[int, str], flags: int = 0, call: str = "") -> Observation:
    observation = Observation(Code(frozenset({("vmlinux", "f")})), proc)
    for number, look in enumerate(looks):
        for tid, stack in look.items():
            add_task(proc, tid, stack, flags, call or f"{number} 0x0")
        observation.look()
    return observation


def chances(observation: Observation) -> dict[str, float]:
    return {each: outlook(observation, each, True).chance for each in ModelName}


def test_nobody_inside(tmp_path: Path) -> None:
    observation = observe(tmp_path, *[{1: OUTSIDE, 2: OUTSIDE}] * 4)
    assert set(chances(observation).values()) == {1.0}
    assert outlook(observation, ModelName.HYBRID, True).longest_ms == 0


def test_one_stays_inside(tmp_path: Path) -> None:
    observation = observe(tmp_path, *[{1: INSIDE, 2: OUTSIDE}] * 4, flags=KTHREAD)
    assert set(chances(observation).values()) == {0.0}
    for each in ModelName:
        (only,) = outlook(observation, each, True).blockers
        assert (only.comm, only.as_json()["function"]) == ("task1", "f.cold")


def test_they_take_turns(tmp_path: Path) -> None:
    """Each of them leaves, but never both at once: only stop needs that."""
    one, other = {1: INSIDE, 2: OUTSIDE}, {1: OUTSIDE, 2: INSIDE}
    found = chances(observe(tmp_path, one, other, one, other, flags=KTHREAD))
    assert (found["native"], found["hybrid"], found["stop"]) == (1.0, 1.0, 0.0)


def test_all_are_outside_once(tmp_path: Path) -> None:
    one, none = {1: INSIDE}, {1: OUTSIDE}
    observation = observe(tmp_path, one, one, none, one)
    found = outlook(observation, ModelName.STOP, True)
    assert found.chance == 1.0 and found.longest_ms is not None and found.longest_ms > 0


def test_a_user_task_that_leaves_the_kernel_moves(tmp_path: Path) -> None:
    """It is inside at every look, in another call each time."""
    found = chances(observe(tmp_path, *[{1: INSIDE}] * 4))
    assert (found["hybrid"], found["task"]) == (0.0, 1.0)


def test_a_sleeper_is_signalled_under_task(tmp_path: Path) -> None:
    observation = observe(tmp_path, *[{1: INSIDE}] * 4, call="7 0x0")
    found = outlook(observation, ModelName.TASK, True)
    assert (found.chance, found.signals) == (1.0, 1)


def test_a_sleeper_that_hears_no_signal_blocks_task(tmp_path: Path) -> None:
    observation = Observation(Code(frozenset()), tmp_path)
    for _ in range(4):
        add_task(tmp_path, 1, OUTSIDE, 0, "7 0x0")
        write(tmp_path / "1/task/1/status", "State:\tD (disk sleep)\n")
        observation.look()
    found = outlook(observation, ModelName.TASK, True)
    assert (found.chance, found.signals) == (0.0, 0)
    assert [each.comm for each in found.blockers] == ["task1"]
