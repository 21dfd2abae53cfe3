# SPDX-License-Identifier: GPL-2.0-or-later
"""What is loaded at boot, in which order, and what is not: after a crash, or switched off."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.documents import validate
from tests.machine import OLDER, OTHER, RUNNING, Machine, build_id_note, in_child, patch_bytes
from tests.unit.test_trusting import decide

from livegraft.cli import main
from livegraft.errors import PatchError, UsageError
from livegraft.runtime import (
    booting,
    checking,
    commandline,
    identity,
    installed,
    installing,
    switches,
    syscalls,
)
from livegraft.runtime.booting import Boot, settle
from livegraft.runtime.installing import Kept, enable_again, install
from livegraft.runtime.livepatch import ENGINE
from livegraft.trust import detached


@pytest.fixture
def machine(root: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    monkeypatch.setattr(syscalls, "require_module_capability", lambda action: None)
    return Machine(root, monkeypatch)


@pytest.fixture
def put(machine: Machine, tmp_path: Path) -> Callable[..., Kept]:
    def run(name: str = "fix", release: str = RUNNING, fix: str = "ef", **options: Any) -> Kept:
        path = tmp_path / f"{name}.ko"
        path.write_bytes(patch_bytes(name, release, fix=fix))
        return install(path, root=machine.root, **options)

    return run


class Loader:
    """In the place of the kernel: what was asked of it, and what it answers.

    Args:
        machine: where patches become loaded.
        failing: names of those that are refused.
        crashing: the name of one with which the machine goes down.
    """

    def __init__(self, machine: Machine, failing: str = "", crashing: str = "") -> None:
        self.machine = machine
        self.failing = failing
        self.crashing = crashing
        self.asked: list[tuple[str, str, bool]] = []

    def __call__(self, path: Path, *, model: str, replace: bool, **_: object) -> Any:
        self.asked.append((path.stem, model, replace))
        marker = path.parent / installed.MARKER
        assert json.loads(marker.read_text())["boot_id"] == installed.boot_id(self.machine.root)
        if path.stem == self.crashing:
            os.kill(os.getpid(), signal.SIGKILL)
        if path.stem == self.failing:
            raise PatchError(path.stem, "does not fit", "build it again")
        self.machine.loads(path.stem)
        return SimpleNamespace(signers=(), transition_ms=1.5, warnings=("mind this",))


def boot(machine: Machine, load: Loader | None = None) -> Boot:
    done = booting.boot(root=machine.root, load=load or Loader(machine))
    document = done.as_json() | {"timings": {}}
    validate("boot", document)
    assert commandline.text("boot", document)
    return done


def outcomes(done: Boot) -> dict[str, str]:
    return {each.patch.name: each.outcome.value for each in done.patches}


def goes_down(machine: Machine, name: str, before: str = "") -> None:
    """The machine crashes as a patch is loaded, and starts again."""
    load = Loader(machine, crashing=name)
    status = in_child(lambda: boot(machine, load))
    assert status == signal.SIGKILL
    machine.boots("66666666-2222-3333-4444-555555555555")


# -- what is loaded -------------------------------------------------------------------------------


def test_nothing_was_installed(machine: Machine) -> None:
    load = Loader(machine)
    assert (outcomes(boot(machine, load)), load.asked) == ({}, [])
    assert not machine.store.exists()


def test_in_their_order(machine: Machine, put: Callable[..., Kept]) -> None:
    put("c")
    put("a", model="hybrid")
    put("b", model="hybrid", replacing=True)
    put("x", OTHER)
    put("y", order=0)
    load = Loader(machine)
    done = boot(machine, load)
    assert load.asked == [
        ("y", "native", False),
        ("c", "native", False),
        ("a", "hybrid", False),
        ("b", "hybrid", True),
    ]
    assert outcomes(done) == {"x": "other-kernel"} | dict.fromkeys("ycab", "loaded")
    (other,) = (each for each in done.patches if each.patch.name == "x")
    assert other.problem == f"it is for the kernel {OTHER}, and this is {RUNNING}"
    # Once more, by hand: all are there.
    again = Loader(machine)
    assert set(outcomes(boot(machine, again)).values()) == {"other-kernel", "present"}
    assert again.asked == []


def test_what_was_replaced_is_not_loaded_again(machine: Machine, put: Callable[..., Kept]) -> None:
    """The newer one is in force: the older one, loaded once more, would lie above it."""
    put("c")
    put("a", model="hybrid")
    put("b", model="hybrid", replacing=True)
    put("d", model="hybrid")
    boot(machine)
    for attribute, value in (("enabled", "1"), ("transition", "0")):
        file = machine.root / ENGINE / "b" / attribute
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(value)
    assert machine.states() == {"c": "loaded", "a": "replaced", "b": "loaded", "d": "loaded"}
    shutil.rmtree(machine.root / "sys/module/a")  # unloaded, which is safe
    again = Loader(machine)
    done = boot(machine, again)
    assert outcomes(done) == dict.fromkeys("cbd", "present") | {"a": "replaced"}
    assert again.asked == []
    (machine.root / ENGINE / "b/enabled").write_text("0")
    assert machine.states()["a"] == "waiting"


def test_one_that_fails_keeps_no_other_out(machine: Machine, put: Callable[..., Kept]) -> None:
    for name in "abc":
        put(name)
    (machine.store / RUNNING / "c/c.ko").write_text("damaged")
    done = boot(machine, Loader(machine, failing="a"))
    assert outcomes(done) == {"a": "failed", "b": "loaded", "c": "failed"}
    assert commandline.exit_code("boot", done.as_json()) == 1
    # It was no crash, and will be tried again.
    machine.boots("66666666-2222-3333-4444-555555555555")
    assert machine.states()["a"] == "waiting"


def test_the_kernel_was_upgraded_under_its_name(machine: Machine, put: Callable[..., Kept]) -> None:
    """That is no failure, and nothing that monitoring has to tell of."""
    put("a")
    put("b")
    (machine.root / "sys/kernel/notes").write_bytes(build_id_note("cd" * 20))
    load = Loader(machine)
    done = boot(machine, load)
    assert (outcomes(done), load.asked) == (dict.fromkeys("ab", "other-kernel"), [])
    assert done.patches[0].problem == f"it is for another build of {RUNNING} than the one that runs"
    assert commandline.exit_code("boot", done.as_json()) == 0
    assert checking.check([], root=machine.root).health is checking.Health.WELL
    (machine.root / "sys/kernel/notes").write_bytes(build_id_note("ab" * 20))
    assert checking.check([], root=machine.root).health is checking.Health.MISSING


@pytest.mark.parametrize("file", ["fix.ko", "without"])
def test_signatures_are_where_load_looks_for_them(
    file: str, machine: Machine, tmp_path: Path, author: Any
) -> None:
    path = tmp_path / file
    path.write_bytes(patch_bytes("named_otherwise"))
    (tmp_path / f"{file}.author.p7s").write_bytes(author.sign(path.read_bytes()))
    kept = install(path, root=machine.root)
    assert [name for name, _ in detached.find(kept.patch.path)] == ["named_otherwise.ko.author.p7s"]


# -- crashes --------------------------------------------------------------------------------------


def test_a_crash_is_not_tried_again(machine: Machine, put: Callable[..., Kept]) -> None:
    for name in "abc":
        put(name)
    goes_down(machine, "b")
    # a was loaded before and may have been the cause; c was not.
    assert machine.states() == {"a": "loaded", "b": "crashed", "c": "waiting"}
    (machine.root / "sys/module/a/initstate").unlink()
    (machine.root / "sys/module/a/parameters/livegraft").unlink()
    load = Loader(machine)
    done = boot(machine, load)
    assert outcomes(done) == {"a": "crashed", "b": "crashed", "c": "loaded"}
    assert [each[0] for each in load.asked] == ["c"]
    assert "livegraft install --again a" in done.patches[0].remedy
    assert commandline.exit_code("boot", done.as_json()) == 1
    # That stays so, also when the machine is well without them.
    settle(machine.root)
    machine.boots("77777777-2222-3333-4444-555555555555")
    assert (machine.states()["a"], machine.states()["b"]) == ("crashed", "crashed")

    assert enable_again("b", root=machine.root).trial is None
    assert machine.states()["b"] == "waiting"
    with pytest.raises(PatchError, match="nothing keeps it"):
        enable_again("b", root=machine.root)
    assert outcomes(boot(machine)) == {"a": "crashed", "b": "loaded", "c": "present"}


def test_settled(machine: Machine, put: Callable[..., Kept]) -> None:
    put("a")
    boot(machine)
    assert installed.installed(machine.root)[0].trial is not None
    done = settle(machine.root)
    assert [each.name for each in done.settled] == ["a"]
    assert not list(machine.store.rglob(installed.MARKER))
    assert settle(machine.root).settled == ()


def test_by_hand_nobody_settles_later(machine: Machine, put: Callable[..., Kept]) -> None:
    """The marker is there while the kernel takes the patch, and no longer."""
    put("a")
    goes_down_by_hand = Loader(machine, crashing="a")

    def by_hand(load: Loader) -> Boot:
        return booting.boot("a", settled=True, root=machine.root, load=load)

    assert in_child(lambda: by_hand(goes_down_by_hand)) == signal.SIGKILL
    assert installed.installed(machine.root)[0].trial is not None
    assert outcomes(by_hand(Loader(machine))) == {"a": "loaded"}
    assert installed.installed(machine.root)[0].trial is None
    machine.boots("66666666-2222-3333-4444-555555555555")
    shutil.rmtree(machine.root / "sys/module/a")
    assert machine.states() == {"a": "waiting"}


def test_only_one(machine: Machine, put: Callable[..., Kept]) -> None:
    for name in "ab":
        put(name)
    put("c", OTHER)
    load = Loader(machine)
    done = booting.boot("b", root=machine.root, load=load)
    assert (outcomes(done), [each[0] for each in load.asked]) == ({"b": "loaded"}, ["b"])
    for name in "cx":
        with pytest.raises(PatchError, match=f"no such patch is installed for {RUNNING}"):
            booting.boot(name, root=machine.root, load=load)


def test_crashed_before_it_was_settled(machine: Machine, put: Callable[..., Kept]) -> None:
    """All was loaded, and the machine went down a minute later."""
    put("a")
    boot(machine)
    machine.boots("66666666-2222-3333-4444-555555555555")
    (machine.root / "sys/module/a/parameters/livegraft").unlink()
    assert machine.states() == {"a": "crashed"}


def test_the_loader_alone_was_killed(machine: Machine, put: Callable[..., Kept]) -> None:
    """The same boot goes on: that was no crash of the machine."""
    put("a")
    assert in_child(lambda: boot(machine, Loader(machine, crashing="a"))) == signal.SIGKILL
    assert machine.states() == {"a": "waiting"}
    assert outcomes(boot(machine)) == {"a": "loaded"}


def test_the_crash_counts_for_these_bytes(machine: Machine, put: Callable[..., Kept]) -> None:
    put("a")
    goes_down(machine, "a")
    with pytest.raises(PatchError, match="the machine crashed") as caught:
        put("a")
    assert "--again a" in caught.value.remedy
    put("a", fix="dd")
    assert machine.states() == {"a": "waiting"}


def test_installed_again_before_it_is_settled(machine: Machine, put: Callable[..., Kept]) -> None:
    put("a")
    boot(machine)
    put("a")
    machine.boots("66666666-2222-3333-4444-555555555555")
    (machine.root / "sys/module/a/parameters/livegraft").unlink()
    assert machine.states() == {"a": "crashed"}


def test_without_a_marker_nothing_is_loaded(machine: Machine, put: Callable[..., Kept]) -> None:
    """A disk that takes no more: a crash would come again at each boot."""
    put("a")
    load = Loader(machine)

    def limited() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20, 20))
        done = boot(machine, load)
        assert (outcomes(done), load.asked) == ({"a": "failed"}, [])
        assert "cannot be written: File too large" in done.patches[0].problem

    assert in_child(limited) == 0
    assert machine.states() == {"a": "waiting"}


def test_the_marker_is_on_disk_before_the_kernel_has_the_patch(
    machine: Machine, put: Callable[..., Kept], monkeypatch: pytest.MonkeyPatch
) -> None:
    put("a")
    done: list[str] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        done.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        real(descriptor)

    class Noting(Loader):
        def __call__(self, path: Path, **options: Any) -> Any:
            done.append("load")
            return super().__call__(path, **options)

    monkeypatch.setattr(os, "fsync", fsync)
    boot(machine, Noting(machine))
    assert done == [f".{installed.MARKER}", "a", "load"]


# -- off ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "value"),
    [
        ("quiet", None),
        ("livegraft=off", "off"),
        ('"livegraft=off"', "off"),
        ('livegraft="off"', "off"),
        ("livegraft=off livegraft=on", "on"),
        ("livegraft=of", "of"),
        ("livegraft", ""),
        ("livegraft.debug=1 x=livegraft=off", None),
    ],
)
def test_the_kernel_parameter(words: str, value: str | None, machine: Machine) -> None:
    machine.command_line(words)
    assert switches.parameter((machine.root / "proc/cmdline").read_text()) == value
    off = switches.off(machine.root)
    assert bool(off) == (value not in (None, "on"))
    if off:
        with pytest.raises(PatchError, match=r"switched off.*command line; boot without it"):
            switches.require_on("fix", machine.root)


def test_switches(machine: Machine) -> None:
    assert switches.off(machine.root) == ()
    decide(machine.root, "enabled = no")
    machine.command_line("livegraft=off")
    assert [each.place.value for each in switches.off(machine.root)] == [
        "kernel-parameter",
        "configuration",
    ]
    machine.command_line("")
    decide(machine.root, "enabled = perhaps")
    (switch,) = switches.off(machine.root)
    assert "neither yes nor no" in switch.problem


@pytest.mark.parametrize("way", ["command line", "configuration"])
def test_switched_off(way: str, machine: Machine, put: Callable[..., Kept]) -> None:
    put("a")
    if way == "configuration":
        decide(machine.root, "enabled = no")
    else:
        machine.command_line("livegraft=off")
    load = Loader(machine)
    done = boot(machine, load)
    assert (outcomes(done), load.asked) == ({"a": "off"}, [])
    assert done.patches[0].remedy
    assert commandline.exit_code("boot", done.as_json()) == 0
    assert f"switched off: {done.off[0].problem}" in commandline.text("boot", done.as_json())


# -- the verbs ------------------------------------------------------------------------------------


@pytest.fixture
def verb(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, Any, str]]:
    """A verb of the command line on this machine: its status, its document and its text."""
    for module, names in (
        (installed, ("opened", "boot_id", "is_kernel_installed")),
        (identity, ("running",)),
        (switches, ("off",)),
    ):
        for name in names:
            real = getattr(module, name)
            monkeypatch.setattr(module, name, rooted(real, machine.root))
    monkeypatch.setattr(installed.Installed, "is_loaded", lambda *_: False)

    def run(*words: str) -> tuple[int, Any, str]:
        status = main.main([*words, "--json"])
        document = json.loads(capsys.readouterr().out)
        validate(words[0], document)
        text = commandline.text(words[0], document) if "error" not in document else ""
        return status, document, text

    return run


def rooted(function: Callable[..., Any], root: Path) -> Callable[..., Any]:
    """A function whose last argument is always this root."""

    def call(*arguments: Any) -> Any:
        return function(*(each for each in arguments if not isinstance(each, Path)), root)

    return call


def test_list(
    machine: Machine, put: Callable[..., Kept], verb: Callable[..., tuple[int, Any, str]]
) -> None:
    assert verb("list")[2] == "no live patch is installed"
    put("a", model="hybrid", replacing=True)
    put("b", OTHER)
    put("c", "6.1.0-1-amd64")
    put("e", OLDER)
    (machine.root / f"boot/vmlinuz-{OLDER}").touch()
    put("d")
    goes_down(machine, "a")
    (machine.store / RUNNING / "d" / installed.RECORD).unlink()
    machine.command_line("livegraft=off")
    status, _, text = verb("list")
    assert status == 0
    lines = text.splitlines()
    assert lines[0].startswith("live patches are switched off: livegraft=off")
    assert lines[1] == "c (6.1.0-1-amd64): obsolete, model native, order 1"
    assert lines[2] == (
        "  its kernel is installed no more; 'livegraft uninstall c -k 6.1.0-1-amd64' removes it"
    )
    assert lines[3].startswith(f"d ({RUNNING}): damaged")
    assert lines[5].startswith(f"a ({RUNNING}): not loaded any more")
    assert lines[5].endswith("model hybrid, order 1, replaces older ones")
    assert "livegraft install --again a" in lines[6]
    assert lines[7] == f"b ({OTHER}): waits for a boot of that kernel, model native, order 1"
    assert lines[8] == f"e ({OLDER}): obsolete, model native, order 1"
    assert lines[9] == (
        f"  it is for the older kernel {OLDER}, and would be loaded if that were booted again; "
        f"'livegraft uninstall e -k {OLDER}' removes it"
    )


@pytest.mark.parametrize(
    "words",
    [
        ["install"],
        ["install", "fix.ko", "--again", "fix"],
        ["install", "fix.ko", "-k", RUNNING],
        ["uninstall"],
        ["list", "fix"],
        ["boot", "--settle", "--unsettled"],
        ["boot", "fix", "--settle"],
    ],
)
def test_usage(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main([*words, "--json"]) == 2
    validate(words[0], json.loads(capsys.readouterr().out))


def test_documents(machine: Machine, put: Callable[..., Kept]) -> None:
    kept = put("a")
    patch = kept.patch.as_json(RUNNING, machine.root)
    validate("uninstall", {"patch": patch, "loaded": True, "timings": {}})
    document = {
        "patch": patch,
        "replaced": kept.replaced,
        "again": False,
        "signers": [],
        "warnings": list(kept.warnings),
        "timings": {},
    }
    validate("install", document)
    assert commandline.text("install", document).splitlines()[0] == (
        f"a: installed for {RUNNING}, model native, order 1"
    )
    text = commandline.text("uninstall", {"patch": patch, "loaded": True})
    assert "still loaded: livegraft unload a" in text


def test_several_and_none(machine: Machine, put: Callable[..., Kept]) -> None:
    put("a")
    put("a", OTHER)
    with pytest.raises(UsageError, match="-k RELEASE"):
        installing.find("a", root=machine.root)
