# SPDX-License-Identifier: GPL-2.0-or-later
"""A patch is kept whole or not at all: a process killed at any step, a full disk, two at once."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from tests.machine import RUNNING, Machine, files, in_child, patch_bytes

from livegraft.errors import PatchError
from livegraft.runtime import durable, installed, installing, lock
from livegraft.runtime.installing import Kept, install, uninstall


def killed_at(step: int, work: Callable[[], object]) -> int:
    """The same, and the process is killed before the line of that number is run.

    Lines of what changes the disk count; between two of them is at most one system call.
    """
    watched = {durable.__file__, installing.__file__}
    left = step

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal left
        if frame.f_code.co_filename not in watched:
            return None
        if event == "line":
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace

    def traced() -> None:
        sys.settrace(trace)
        work()

    return in_child(traced)


def steps(work: Callable[[], object]) -> Iterator[int]:
    """Kill the work at each of its steps, until it is done."""
    for step in range(10000):
        status = killed_at(step, work)
        assert status in (0, signal.SIGKILL), "it has failed by itself"
        yield step
        if status == 0:
            return


def test_killed_while_it_is_installed(machine: Machine, tmp_path: Path) -> None:
    path = tmp_path / "fix.ko"
    path.write_bytes(patch_bytes())
    seen = []
    for _ in steps(lambda: install(path, root=machine.root)):
        states = machine.states()
        assert states in ({}, {"livegraft_fix": "waiting"})
        seen.append(bool(states))
        shutil.rmtree(machine.root / "var/lib/livegraft", ignore_errors=True)
    assert len(seen) > 60 and seen.count(False) > 40 and seen.count(True) > 4


def test_killed_while_it_is_replaced(machine: Machine, put: Callable[..., Kept]) -> None:
    """Each time from what the kill before has left there."""
    put()
    new = machine.root / "new.ko"
    new.write_bytes(patch_bytes(fix="dd"))
    old = new.with_name("old.ko")
    old.write_bytes(patch_bytes())
    seen = set()
    for _ in steps(lambda: install(new, root=machine.root)):
        (found,) = installed.installed(machine.root)
        assert found.problem is None and found.record is not None
        seen.add(found.record.fix_sha256[:2])
        install(old, root=machine.root)
        assert [path.name for path in machine.store.iterdir()] == [RUNNING]
    assert seen == {"ef", "dd"}


def test_killed_while_it_is_uninstalled(machine: Machine, put: Callable[..., Kept]) -> None:
    put()
    seen = []
    for _ in steps(lambda: uninstall("livegraft_fix", root=machine.root)):
        states = machine.states()
        assert states in ({}, {"livegraft_fix": "waiting"})
        seen.append(bool(states))
        put()
        assert [path.name for path in machine.store.iterdir()] == [RUNNING]
    assert {True, False} == set(seen)


def test_a_half_would_be_seen(machine: Machine, put: Callable[..., Kept]) -> None:
    """The negative control: written in its place, a file at a time, it is damaged in between."""
    kept = put()
    (kept.patch.folder / installed.RECORD).unlink()
    assert machine.states() == {"livegraft_fix": "damaged"}


def test_on_disk_before_it_has_its_place(
    machine: Machine, put: Callable[..., Kept], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a loss of power would take is nothing that has been promised."""
    done: list[str] = []

    def watched(name: str) -> Callable[..., Any]:
        real = getattr(os, name)

        def call(*arguments: Any, **options: Any) -> Any:
            opened = Path(f"/proc/self/fd/{arguments[0]}")
            what = opened.readlink().name if name == "fsync" else arguments[1]
            done.append(f"{name} {what}")
            return real(*arguments, **options)

        return call

    for name in ("fsync", "rename"):
        monkeypatch.setattr(os, name, watched(name))
    put()
    assert done[-7:] == [
        "fsync livegraft_fix.ko",
        f"fsync {installed.RECORD}",
        "fsync .new",
        "fsync patches",  # the release's folder has come
        "rename livegraft_fix",
        f"fsync {RUNNING}",
        "fsync patches",
    ]


def test_a_write_that_fails(machine: Machine, put: Callable[..., Kept], tmp_path: Path) -> None:
    """A real one: this process may write files of 600 bytes."""
    put()
    before = files(machine)
    path = tmp_path / "next.ko"
    path.write_bytes(patch_bytes(fix="dd"))

    def limited() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (600, 600))
        with pytest.raises(PatchError, match="cannot be written: File too large"):
            install(path, root=machine.root)

    assert in_child(limited) == 0
    assert files(machine) == before
    assert [each.name for each in machine.store.iterdir()] == [RUNNING]


MOUNTED = """
import sys
from pathlib import Path
from livegraft.errors import PatchError
from livegraft.runtime.installing import install, uninstall
root = Path(sys.argv[1])
for change in (lambda: install(root / "next.ko", root=root),
               lambda: uninstall("livegraft_fix", root=root)):
    try:
        change()
    except PatchError as error:
        print(error)
"""
MAY_MOUNT = subprocess.run(["unshare", "-rm", "true"], check=False, capture_output=True)


@pytest.mark.skipif(
    MAY_MOUNT.returncode != 0, reason="user namespaces are not allowed: run as root"
)
@pytest.mark.parametrize(
    ("spoil", "said", "left"),
    [
        ("head -c 1m /dev/zero > fill || :", ["No space left on device; make room"], []),
        ("mount -o remount,ro .", ["Read-only file system; mount it"] * 2, [RUNNING]),
    ],
)
def test_a_disk_that_is_full_or_read_only(
    spoil: str, said: list[str], left: list[str], machine: Machine, put: Callable[..., Kept]
) -> None:
    """Both are real; on the full one nothing can be installed, and something be uninstalled."""
    put()
    (machine.root / "next.ko").write_bytes(patch_bytes(fix="dd"))
    script = (
        "set -e; cp -a $1/var/lib $1/kept; mount -t tmpfs -o mode=755,size=64k none $1/var/lib; "
        f"cp -a $1/kept/. $1/var/lib; cd $1/var/lib; {spoil}; "
        '"$2" -c "$3" $1; ls -A livegraft/patches'
    )
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", script, "sh", machine.root, sys.executable, MOUNTED],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[len(said) :] == left
    assert all(word in line for word, line in zip(said, lines, strict=False)), lines


def test_a_folder_that_cannot_be_made(machine: Machine, put: Callable[..., Kept]) -> None:
    (machine.root / "var/lib").rmdir()
    with pytest.raises(PatchError, match="does not exist"):
        put()


def test_errors_have_their_remedies(machine: Machine) -> None:
    for code, remedy in ((errno.EDQUOT, "room"), (errno.EACCES, "root"), (errno.EIO, "repair")):
        with pytest.raises(PatchError) as caught, installing.writing(machine.root):
            raise OSError(code, os.strerror(code))
        assert remedy in caught.value.remedy


# -- two at once ----------------------------------------------------------------------------------


def test_two_installs_at_once(machine: Machine, tmp_path: Path) -> None:
    names = [f"fix{number}" for number in range(8)]
    children = []
    for name in names:
        path = tmp_path / f"{name}.ko"
        path.write_bytes(patch_bytes(name))
        child = os.fork()
        if child == 0:
            try:
                install(path, root=machine.root)
                os._exit(0)
            except BaseException:
                os._exit(1)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 8
    found = installed.installed(machine.root)
    assert sorted(each.name for each in found) == names
    orders = [each.record.order for each in found if each.record]
    assert orders == [1, 2, 3, 4, 5, 6, 7, 8]


def test_the_other_one_does_not_end(
    machine: Machine, put: Callable[..., Kept], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(installing, "SECONDS", 0.05)
    with (
        lock.alone("x", 0, machine.root / installing.LOCK),
        pytest.raises(PatchError, match=f"another livegraft is changing .*pid {os.getpid()}"),
    ):
        put()
    put()
