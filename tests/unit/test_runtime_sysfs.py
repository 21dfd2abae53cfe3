# SPDX-License-Identifier: GPL-2.0-or-later
"""What is read out of sysfs and proc, on kernels old and new, and what errors are made of it.

The trees are copies of a guest's, file by file: no kernel of these tests has a live patch.
"""

from __future__ import annotations

import errno
import time
from pathlib import Path

import pytest

from livegraft.errors import PatchError
from livegraft.runtime import blockers, known, state, syscalls
from livegraft.runtime.blockers import Kind
from livegraft.runtime.livepatch import Livepatches
from livegraft.runtime.stacks import Code
from livegraft.runtime.state import Direction, PatchState


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def add_patch(
    root: Path, name: str, *, transition: int = 0, enabled: int = 1, **newer: str
) -> None:
    folder = root / "sys/kernel/livepatch" / name
    write(folder / "enabled", f"{enabled}\n")
    write(folder / "transition", f"{transition}\n")
    write(folder / "vmlinux/patched", "1\n")
    (folder / "vmlinux/cmdline_proc_show,1").mkdir()
    write(folder / "ext4/patched", "0\n")
    (folder / "ext4/f,2").mkdir()
    for attribute, value in newer.items():
        write(folder / attribute, value + "\n")
    add_module(root, name, "OEK")


def add_module(root: Path, name: str, taint: str, mark: str = "") -> None:
    folder = root / "sys/module" / name
    write(folder / "initstate", "live\n")
    write(folder / "taint", taint + "\n")
    if mark:
        write(folder / "parameters/livegraft", mark + "\n")
        write(folder / "parameters/model", "native\n")
    modules = root / "proc/modules"
    before = modules.read_text() if modules.exists() else ""
    write(modules, f"{name} 16384 1 - Live 0x0 (OEK)\n{before}")  # the newest comes first


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "sys/kernel/livepatch").mkdir(parents=True)
    (tmp_path / "sys/module").mkdir(parents=True)
    return tmp_path


def test_old_kernel_does_not_tell_the_order(root: Path) -> None:
    add_patch(root, "one")
    patch = Livepatches(root).get("one")
    assert patch is not None
    assert (patch.stack_order, patch.replace) == (None, None)
    assert [each.name for each in patch.objects] == ["vmlinux", "ext4"]
    assert patch.objects[1].functions == (("f", 2),)
    assert not patch.objects[1].patched


def test_new_kernel_tells_more(root: Path) -> None:
    add_patch(root, "one", stack_order="1", replace="0")
    patch = Livepatches(root).get("one")
    assert patch is not None
    assert (patch.stack_order, patch.replace) == (1, False)


def test_newest_first_by_load_order(root: Path) -> None:
    for name in ("one", "two", "three"):
        add_patch(root, name)
    add_module(root, "ext4", "")
    assert Livepatches(root).names() == ["three", "two", "one"]


def test_newest_first_by_stack_order(root: Path) -> None:
    for name, order in (("one", "3"), ("two", "1"), ("three", "2")):
        add_patch(root, name, stack_order=order)
    assert Livepatches(root).names() == ["one", "three", "two"]


def test_states(root: Path) -> None:
    add_patch(root, "on")
    add_patch(root, "going", transition=1, enabled=0)
    add_module(root, "off", "OEK", mark=f"1:{'ab' * 32}")
    found = {each.name: each for each in state.status(patches=Livepatches(root))}
    assert found["on"].state is PatchState.ENABLED
    assert found["on"].foreign
    assert found["going"].state is PatchState.TRANSITION
    assert found["going"].direction is Direction.UNPATCHING
    assert found["off"].state is PatchState.DISABLED
    assert not found["off"].foreign
    assert found["off"].fix_sha256 == "ab" * 32


def test_since_when_although_the_kernels_log_has_lost_it(root: Path) -> None:
    (root / "run").mkdir()
    add_patch(root, "on")
    add_patch(root, "going", transition=1, enabled=0)
    began = time.time()
    for name in ("on", "going"):
        assert state.status(name, patches=Livepatches(root))[0].since is None
        known.keep(name, known.Known("ab" * 32), root)
    (on,) = state.status("on", patches=Livepatches(root))
    assert on.since is not None and began <= on.since <= time.time()
    # When the undoing began is another question.
    assert state.status("going", patches=Livepatches(root))[0].since is None


def test_status_of_what_is_no_live_patch(root: Path) -> None:
    add_module(root, "ext4", "")
    with pytest.raises(PatchError, match="not a live patch"):
        state.status("ext4", patches=Livepatches(root))
    for name in ("missing", "../kernel", ""):
        with pytest.raises(PatchError, match="no such live patch"):
            state.status(name, patches=Livepatches(root))


def test_kernel_without_livepatch(tmp_path: Path) -> None:
    with pytest.raises(PatchError, match="no livepatch core"):
        state.status(patches=Livepatches(tmp_path))


def test_enabled_is_written_and_errors_come_back(root: Path) -> None:
    add_patch(root, "one")
    patches = Livepatches(root)
    assert patches.set_enabled("one", False) == 0
    assert (root / "sys/kernel/livepatch/one/enabled").read_text().startswith("0")
    assert patches.set_enabled("gone", False) == errno.ENOENT
    assert not patches.kick("one")


def add_task(proc: Path, pid: int, tid: int, side: int, stack: str = "") -> None:
    folder = proc / str(pid) / "task" / str(tid)
    write(folder / "patch_state", f"{side}\n")
    write(folder / "comm", f"task{tid}\n")
    write(folder / "status", f"Name:\ttask{tid}\nState:\tD (disk sleep)\n")
    write(folder / "stack", stack)


def test_blockers(tmp_path: Path) -> None:
    add_task(tmp_path, 1, 1, 1)
    add_task(tmp_path, 9, 9, 0, "[<0>] schedule+0x1/0x2\n")
    add_task(tmp_path, 20, 21, 0, "[<0>] msleep+0x29/0x30\n[<0>] f.cold+0x3/0x9 [ext4]\n")
    (tmp_path / "sys").mkdir()
    code = Code(frozenset({("ext4", "f")}))
    found = blockers.sides(1, code, 1500, tmp_path)
    first, second = found.blockers
    assert (found.moved, first.waiting_ms) == (1, 1500)
    assert (first.pid, first.tid, first.function) == (20, 21, "f.cold")
    assert first.kind is Kind.INSIDE
    assert first.stack == ("msleep", "f.cold")
    assert str(first) == "task21 (pid 20, tid 21) inside f.cold"
    assert (second.pid, second.function, second.kind) == (9, "", Kind.UNKNOWN)
    assert [each.pid for each in blockers.sides(0, code, None, tmp_path).blockers] == [1]


def test_function_of_the_same_name_elsewhere_is_none(tmp_path: Path) -> None:
    add_task(tmp_path, 20, 20, 0, "[<0>] msleep+0x29/0x30\n[<0>] f+0x3/0x9 [xfs]\n")
    (only,) = blockers.sides(1, Code(frozenset({("ext4", "f")})), None, tmp_path).blockers
    assert only.function == ""


def test_new_code_blocks_undoing(tmp_path: Path) -> None:
    add_task(tmp_path, 5, 5, 1, "[<0>] msleep+0x29/0x30\n[<0>] new_f+0x3/0x9 [fix]\n")
    code = Code(frozenset(), frozenset({"fix"}))
    (only,) = blockers.sides(0, code, None, tmp_path).blockers
    assert only.function == "new_f"


@pytest.mark.parametrize(("place", "inside"), [("vmlinux", "other_f"), ("xfs", "")])
def test_old_code_may_be_an_older_patch_s(root: Path, place: str, inside: str) -> None:
    """If that has the same function; one of the same name in another object is another function."""
    write(root / f"sys/kernel/livepatch/older/{place}/patched", "1\n")
    (root / f"sys/kernel/livepatch/older/{place}/cmdline_proc_show,1").mkdir()
    for attribute, value in (("enabled", "1"), ("transition", "0")):
        write(root / "sys/kernel/livepatch/older" / attribute, value + "\n")
    add_module(root, "older", "OEK")
    add_patch(root, "fix", transition=1)
    add_task(root / "proc", 5, 5, 0, "[<0>] msleep+0x29/0x30\n[<0>] other_f+0x3/0x9 [older]\n")
    (found,) = state.status("fix", patches=Livepatches(root))
    assert [each.function for each in found.blockers] == [inside]


@pytest.mark.parametrize("code", sorted(syscalls.LOAD_ERRORS))
def test_every_load_error_says_what_to_do(code: int, tmp_path: Path) -> None:
    error = syscalls.refusal("fix", code, syscalls.LOAD_ERRORS, [], model="task", root=tmp_path)
    assert error.remedy
    assert errno.errorcode[code] in error.problem
    assert "{" not in str(error)


def test_settings_explain_errors(tmp_path: Path) -> None:
    write(tmp_path / "proc/sys/kernel/modules_disabled", "1\n")
    write(tmp_path / "proc/sys/kernel/ftrace_enabled", "0\n")
    meanings = syscalls.LOAD_ERRORS
    assert "modules_disabled" in str(
        syscalls.refusal("fix", errno.EPERM, meanings, [], root=tmp_path)
    )
    assert "ftrace" in syscalls.refusal("fix", errno.EBUSY, meanings, [], root=tmp_path).problem
    write(tmp_path / "proc/sys/kernel/modules_disabled", "0\n")
    write(tmp_path / "sys/kernel/security/lockdown", "none [integrity] confidentiality\n")
    assert "locked down" in str(syscalls.refusal("fix", errno.EPERM, meanings, [], root=tmp_path))


def test_no_engine_is_not_said_of_the_native_model(tmp_path: Path) -> None:
    meanings = syscalls.LOAD_ERRORS
    native = syscalls.refusal("fix", errno.ENODEV, meanings, [], model="native", root=tmp_path)
    assert "engine" not in str(native)
    stop = syscalls.refusal("fix", errno.ENODEV, meanings, ["why"], model="stop", root=tmp_path)
    assert "engine" in str(stop)
    assert stop.as_json()["log"] == ["why"]


@pytest.mark.parametrize(("capabilities", "refused"), [("1ffffffffff", False), ("a80425fb", True)])
def test_right_to_load(tmp_path: Path, capabilities: str, refused: bool) -> None:
    status = tmp_path / "status"
    write(status, f"Uid:\t0\nCapEff:\t{int(capabilities, 16):016x}\n")
    if refused:
        with pytest.raises(PatchError, match=r"CAP_SYS_MODULE|not root"):
            syscalls.require_module_capability("load", status)
    else:
        syscalls.require_module_capability("load", status)
