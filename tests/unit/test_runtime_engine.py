# SPDX-License-Identifier: GPL-2.0-or-later
"""The engine's models and stalls, on a directory as kmod/README.md describes it."""

from __future__ import annotations

import errno
import os
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from livegraft.errors import KernelRefused, PatchError, UsageError
from livegraft.progress import SILENT
from livegraft.runtime import (
    ModelName,
    events,
    following,
    lock,
    model_of,
    models,
    proctext,
    redirections,
    settings,
    stall,
    state,
    syscalls,
)
from livegraft.runtime.blockers import Kind
from livegraft.runtime.engine import EngineModel, remove
from livegraft.runtime.livepatch import ENGINE, Livepatches
from livegraft.runtime.model import Model, Options, Phase, Wait, model_named
from livegraft.runtime.native import NativeModel
from livegraft.runtime.payload import Manifest, Payload
from livegraft.runtime.stall import OnStall
from livegraft.runtime.state import PatchState

ATTRIBUTES = {
    "enabled": "1",
    "transition": "0",
    "phase": "applied",
    "since": "1500000",
    "model": "hybrid",
    "moved": "0",
    "left": "0",
    "blockers": "",
    "signal": "",
    "signalled": "3",
    "interrupted": "1",
    "restarted": "2",
    "force": "",
    "forced": "0",
    "direct": "1",
    "times": "resolve 10\nredirect 40000\nmove 700\nfinish 0\npause 0\ntries 0\n",
    "vmlinux/patched": "1",
}


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n")


def add(root: Path, name: str, **attributes: str) -> None:
    """A patch of the engine, and its module."""
    for attribute, value in (ATTRIBUTES | attributes).items():
        write(root / ENGINE / name / attribute, value)
    (root / ENGINE / name / "vmlinux/cmdline_proc_show,1").mkdir(exist_ok=True)
    write(root / "sys/module" / name / "initstate", "live")
    write(root / "sys/module" / name / "taint", "OEK")
    write(root / "sys/module" / name / "parameters/model", attributes.get("model", "hybrid"))
    write(root / "sys/module" / name / "parameters/livegraft", f"1:{'ab' * 32}")
    modules = root / "proc/modules"
    before = modules.read_text() if modules.exists() else ""
    write(modules, f"{name} 16384 1 - Live 0x0 (OEK)\n{before}".rstrip())


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "sys/kernel/livepatch").mkdir(parents=True)
    write(tmp_path / ENGINE / "models", "hybrid yes\nstop yes\ntask no PREEMPT_RT: softirqs")
    write(tmp_path / ENGINE / "version", "1")
    write(tmp_path / ENGINE / "options", "")
    (tmp_path / "proc").mkdir()
    return tmp_path


def payload(foreign: bool = False) -> Payload:
    manifest = cast(Manifest, SimpleNamespace(objects=()))
    return Payload(Path("fix.ko"), b"", "fix", "", None if foreign else manifest)


# -- which models there are -------------------------------------------------------------------


def test_the_engine_says_which_models_there_are(root: Path) -> None:
    found = {each.name: each for each in models(patches=Livepatches(root))}
    assert found[ModelName.HYBRID].available and found[ModelName.STOP].available
    assert "PREEMPT_RT: softirqs" in found[ModelName.TASK].reason
    assert found[ModelName.NATIVE].available


def test_without_the_engine_its_models_say_how_to_get_it(root: Path) -> None:
    with pytest.raises(PatchError, match="engine module, which is not loaded") as caught:
        model_named("stop", patches=Livepatches(root / "elsewhere")).require()
    assert "livegraft engine build" in caught.value.remedy
    assert "insmod" in caught.value.remedy


def test_a_patch_is_driven_by_the_core_that_has_it(root: Path) -> None:
    add(root, "ours", model="stop")
    write(root / "sys/kernel/livepatch/theirs/enabled", "1")
    assert model_of("ours", patches=Livepatches(root)).name is ModelName.STOP
    assert isinstance(model_of("theirs", patches=Livepatches(root)), NativeModel)
    assert isinstance(model_of("gone", patches=Livepatches(root)), NativeModel)


# -- its module -------------------------------------------------------------------------------


@pytest.fixture
def engine_there(root: Path) -> Path:
    """The engine is loaded, and a patch of the kernel's own core."""
    write(root / "sys/module/livegraft_engine/initstate", "live")
    write(root / "sys/kernel/livepatch/theirs/enabled", "1")
    write(root / "proc/modules", "theirs 1\nlivegraft_engine 1\n")
    return root


def test_it_is_removed_if_no_patch_needs_it(
    engine_there: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    removed: list[str] = []
    monkeypatch.setattr("livegraft.runtime.syscalls.delete_module", removed.append)
    remove(Livepatches(engine_there))
    assert removed == ["livegraft_engine"]


def test_a_patch_that_needs_it_is_named(engine_there: Path) -> None:
    add(engine_there, "ours", model="stop")
    with pytest.raises(PatchError, match="cannot be removed: ours needs it"):
        remove(Livepatches(engine_there))


def test_it_is_not_loaded(root: Path) -> None:
    with pytest.raises(PatchError, match="is not loaded"):
        remove(Livepatches(root))


@pytest.mark.parametrize(("said", "problem"), [("EAGAIN", "another module"), ("EPERM", "not so")])
def test_the_kernel_keeps_it(
    engine_there: Path, monkeypatch: pytest.MonkeyPatch, said: str, problem: str
) -> None:
    def refuse(name: str) -> None:
        raise KernelRefused(name, "not so", "", said, ())

    monkeypatch.setattr("livegraft.runtime.syscalls.delete_module", refuse)
    with pytest.raises(PatchError, match=problem):
        remove(Livepatches(engine_there))


# -- loading ----------------------------------------------------------------------------------


def model(root: Path) -> EngineModel:
    return EngineModel(ModelName.HYBRID, Livepatches(root, ENGINE))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (Options(), "fix"),
        (Options(replace=True), "fix replace"),
        (Options(replace=True, direct=False), "fix replace no-direct"),
    ],
)
def test_options_are_said_before_the_payload_comes(
    root: Path, monkeypatch: pytest.MonkeyPatch, options: Options, said: str
) -> None:
    """Also when there are none: a loader that was killed may have left some."""
    found = []

    def init_module(*_: object, **__: object) -> None:
        found.append((root / ENGINE / "options").read_text().strip())

    monkeypatch.setattr(syscalls, "init_module", init_module)
    model(root).insert(payload(), options)
    assert found == [said]


def test_options_are_taken_back_if_the_payload_does_not_come(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = []

    def init_module(*_: object, **__: object) -> None:
        raise KernelRefused("fix", "refused", "", "EBUSY", ())

    def note(_: Livepatches, place: str, text: str) -> int:
        written.append((place, text))
        return 0

    monkeypatch.setattr(syscalls, "init_module", init_module)
    monkeypatch.setattr(Livepatches, "write", note)
    with pytest.raises(KernelRefused):
        model(root).insert(payload(), Options(replace=True))
    assert written == [("options", "fix replace"), ("options", "fix")]


def test_what_a_model_cannot_do_is_refused_before() -> None:
    with pytest.raises(UsageError, match="foreign"):
        EngineModel(ModelName.TASK).accept(payload(foreign=True), Options())
    for foreign, why in ((False, "it was built before"), (True, "livegraft did not build it")):
        with pytest.raises(PatchError, match=f"replace older patches under model native: {why}"):
            NativeModel().accept(payload(foreign), Options(replace=True))
    NativeModel().accept(payload()._replace(can_replace=True), Options(replace=True))
    with pytest.raises(UsageError, match="--no-direct"):
        NativeModel().accept(payload(), Options(direct=False))


# -- waiting ----------------------------------------------------------------------------------


def test_a_wait_ends_in_time_and_says_how(root: Path) -> None:
    add(root, "fix", transition="1")
    began = time.monotonic()
    waited = model(root).wait("fix", 0.2)
    assert not waited.finished and 0.2 <= time.monotonic() - began < 2
    write(root / ENGINE / "fix/transition", "0")
    over = model(root).wait("fix", 5)
    assert over.finished and not over.gone and over.seconds < 1
    # As long as they can be read: not "finish", which has not been measured yet.
    assert set(over.times) == {"resolve_ms", "redirect_ms", "move_ms", "pause_ms", "tries"}
    assert not waited.times
    assert model(root).wait("gone", 5).gone


def test_orders_for_what_is_over_are_no_error(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for code in (errno.EINVAL, errno.ENOENT, errno.ENODEV):
        monkeypatch.setattr(Livepatches, "write", lambda *_, code=code: code)
        model(root).signal("fix")
        model(root).force("fix")
    monkeypatch.setattr(Livepatches, "write", lambda *_: errno.EPERM)
    for order in (model(root).signal, model(root).force):
        with pytest.raises(PatchError, match="EPERM"):
            order("fix")


def test_forgotten_is_when_the_directory_is_gone(root: Path) -> None:
    add(root, "fix", enabled="0", phase="undone")
    assert not model(root).forget("fix", 0.05)
    (root / ENGINE / "fix/enabled").unlink()
    assert model(root).forget("fix", 0.05)


# -- status -----------------------------------------------------------------------------------


def test_status_of_both_cores(root: Path) -> None:
    write(root / "sys/kernel/livepatch/theirs/enabled", "1")
    write(root / "sys/kernel/livepatch/theirs/transition", "0")
    write(root / "proc/modules", "theirs 16384 1 - Live 0x0 (OEK)")
    write(root / "sys/module/theirs/initstate", "live")
    add(root, "going", transition="1", phase="applying", moved="40", left="2", model="task")
    write(root / ENGINE / "going/blockers", "77 1500 kernel 0x0\n78 1500 inside f+0x1/0x9 [ext4]")
    write(root / "proc/78/status", "Tgid:\t70\n")
    write(root / "proc/70/task/78/comm", "worker")
    found = state.status(patches=Livepatches(root))
    assert [each.name for each in found] == ["going", "theirs"]
    going = found[0]
    assert (going.state, going.model) == (PatchState.TRANSITION, "task")
    assert going.detail is not None
    assert (going.detail.phase, going.detail.moved, going.detail.left) == (Phase.APPLYING, 40, 2)
    first, second = going.blockers
    assert (first.tid, first.kind, first.function) == (77, Kind.KERNEL, "")
    assert (second.pid, second.comm, second.function) == (70, "worker", "f")
    document = going.as_json()
    assert document["signals"] == {"signalled": 3, "interrupted": 1, "restarted": 2}
    assert cast(dict[str, float], document["times"])["redirect_ms"] == 40.0
    assert going.since == pytest.approx(time.time() - time.monotonic() + 1.5, abs=0.1)
    assert (found[1].model, found[1].since) == ("native", None)


def test_a_change_under_way_has_no_length_yet(root: Path) -> None:
    add(root, "fix", transition="1", phase="applying")
    patches = Livepatches(root, ENGINE)
    going = patches.get("fix")
    assert going is not None
    detail = model(root).detail(going)
    assert (detail.tasks_ms, detail.transition_ms) == (None, None)
    write(root / ENGINE / "fix/phase", "applied")
    detail = model(root).detail(going)
    assert (detail.tasks_ms, detail.transition_ms) == (0.7, 40.7)


def test_status_tells_what_is_wrong(root: Path) -> None:
    add(root, "fix", forced="1")
    write(root / "proc/sys/kernel/ftrace_enabled", "0")
    (only,) = state.status(patches=Livepatches(root))
    assert any("ftrace is switched off" in each for each in only.warnings)
    assert any("forced" in each for each in only.warnings)
    assert only.as_json()["forced"] is True


def test_status_tells_that_ftrace_has_failed(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No file can be made that answers so: it is the kernel's sysctl after ftrace_kill()."""
    read = proctext.read

    def answer(path: Path) -> str:
        if path == root / settings.FTRACE:
            raise OSError(errno.ENODEV, "No such device")
        return read(path)

    add(root, "fix")
    assert state.status(patches=Livepatches(root))[0].warnings == ()
    monkeypatch.setattr(proctext, "read", answer)
    (told,) = state.status(patches=Livepatches(root))[0].warnings
    assert "given ftrace up" in told and "reboot" in told
    with pytest.raises(PatchError, match="given ftrace up"):
        settings.check("fix", b"", root)


def test_events(root: Path) -> None:
    add(root, "fix", transition="1", phase="applying", left="2")
    following = events("fix", patches=Livepatches(root))
    first = next(following)
    assert (first.state, first.left) == (PatchState.TRANSITION, 2)
    write(root / ENGINE / "fix/transition", "0")
    assert next(following).state is PatchState.ENABLED
    (root / ENGINE / "fix/enabled").unlink()
    assert next(following).state is PatchState.DISABLED
    (root / "sys/module/fix/initstate").unlink()
    assert [each.state for each in following] == [PatchState.UNLOADED]


def test_events_end_in_time(root: Path) -> None:
    add(root, "fix")
    assert len(list(events("fix", 0.15, patches=Livepatches(root)))) == 1


def test_events_tell_who_comes_later(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "LOOK_AROUND", 0.0)
    add(root, "fix")
    enabled = root / "sys/kernel/tracing/enabled_functions"
    write(enabled, "")
    found = events("fix", patches=Livepatches(root))
    assert next(found).redirections == ()
    write(enabled, "cmdline_proc_show (2)   I D \n\tdirect-->bpf_trampoline_1+0x0/0x1000")
    (only,) = next(found).redirections
    assert only.kind is redirections.Kind.BPF
    write(enabled, "")
    assert next(found).redirections == ()


# -- a stall ----------------------------------------------------------------------------------


class Stalled:
    """A model whose transition ends after an order, or never."""

    def __init__(self, ends_after: str) -> None:
        self.ends_after = ends_after
        self.orders: list[str] = []

    def wait(self, name: str, seconds: float) -> Wait:
        return Wait(self.ends_after in self.orders, False, 1, seconds)

    def signal(self, name: str) -> None:
        self.orders.append("signal")

    def force(self, name: str) -> None:
        self.orders.append("force")


@pytest.mark.parametrize(
    ("way", "orders"),
    [
        (OnStall.UNDO, []),
        (OnStall.WAIT, []),
        (OnStall.SIGNAL, ["signal"]),
        (OnStall.FORCE, ["force"]),
    ],
)
def test_what_is_done_at_a_stall(way: OnStall, orders: list[str]) -> None:
    stalled = Stalled(way.value)
    done: list[OnStall] = []
    waited = stall.wait_out(cast(Model, stalled), "fix", 1.0, way, SILENT, done)
    assert stalled.orders == orders == done
    assert waited.finished == bool(orders)
    assert (waited.signalled, waited.forced) == (way is OnStall.SIGNAL, way is OnStall.FORCE)
    assert waited.kicks == 1 + len(orders)


def test_force_has_to_be_said_twice() -> None:
    with pytest.raises(UsageError) as caught:
        stall.chosen("force", False)
    assert stall.FORCE_FLAG in caught.value.remedy
    assert stall.chosen("force", True) is OnStall.FORCE
    with pytest.raises(UsageError):
        stall.chosen("magic", True)


# -- one loader at a time ---------------------------------------------------------------------


def test_a_second_loader_waits_and_names_the_first(tmp_path: Path) -> None:
    place = tmp_path / "lock"
    said = r"another livegraft is loading a patch \(pid \d+\)"
    with (
        lock.alone("one", 1, place),
        pytest.raises(PatchError, match=said),
        lock.alone("two", 0.05, place),
    ):
        pytest.fail("both have it")
    with lock.alone("two", 0, place):
        pass


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small file system; run as root")
def test_a_full_run_keeps_nobody_out(tmp_path: Path) -> None:
    """Who has the lock cannot be written there; a patch is loaded all the same."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=4k,mode=755", "none", str(tmp_path)]
    subprocess.run(mount, check=True)
    try:
        (tmp_path / "other").write_bytes(bytes(4096))
        place = tmp_path / "lock"
        with (
            lock.alone("one", 1, place),
            pytest.raises(PatchError, match=r"is loading a patch \(pid unknown\)"),
            lock.alone("two", 0.05, place),
        ):
            pytest.fail("both have it")
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_the_lock_follows_no_link(tmp_path: Path) -> None:
    (tmp_path / "lock").symlink_to(tmp_path / "other")
    with pytest.raises(PatchError), lock.alone("one", 1, tmp_path / "lock"):
        pass
    assert not (tmp_path / "other").exists()
