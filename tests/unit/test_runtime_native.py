# SPDX-License-Identifier: GPL-2.0-or-later
"""How often the kernel's core is kicked: at its 15th look it sends signals."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from livegraft.errors import TransitionTimeout
from livegraft.runtime import native, state
from livegraft.runtime.livepatch import Livepatches
from livegraft.runtime.model import Options
from livegraft.runtime.payload import Manifest, Payload


def test_the_verb_wait_kicks_a_few_times_only(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for path in ("kernel/livepatch/fix/transition", "kernel/livepatch/fix/enabled"):
        (tmp_path / "sys" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "sys" / path).write_text("1\n")
    module = tmp_path / "sys/module/fix"
    (module / "parameters").mkdir(parents=True)
    (module / "initstate").write_text("live\n")
    (module / "parameters/kick").write_text("")
    kicks: list[str] = []

    def kick(_: Livepatches, name: str) -> bool:
        kicks.append(name)
        return True

    monkeypatch.setattr(Livepatches, "kick", kick)
    clock = SimpleNamespace(now=0.0)

    def sleep(seconds: float) -> None:
        clock.now += seconds

    monkeypatch.setattr(native, "time", SimpleNamespace(monotonic=lambda: clock.now, sleep=sleep))
    with pytest.raises(TransitionTimeout):
        state.wait("fix", 5.0, patches=Livepatches(tmp_path))
    assert len(kicks) == 4


@pytest.mark.parametrize(("replacing", "words"), [(False, ""), (True, " replace=1")])
def test_the_payload_is_told_to_replace(
    monkeypatch: pytest.MonkeyPatch, replacing: bool, words: str
) -> None:
    given: list[str] = []

    def init_module(_name: str, _data: bytes, parameters: str, **_: object) -> None:
        given.append(parameters)

    monkeypatch.setattr("livegraft.runtime.syscalls.init_module", init_module)
    manifest = cast(Manifest, SimpleNamespace())
    payload = Payload(Path("fix.ko"), b"", "fix", "", manifest, can_replace=True)
    native.NativeModel().insert(payload, Options(replace=replacing))
    assert given == [f"model=native{words}"]


def test_all_looks_of_an_undo_stay_below_those_that_send_signals(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The payload looks beside the write of ``enabled`` too, and the core adds everything up."""
    folder = tmp_path / "sys/kernel/livepatch/fix"
    folder.mkdir(parents=True)
    (folder / "transition").write_text("1\n")
    (folder / "enabled").write_text("1\n")
    parameters = tmp_path / "sys/module/fix/parameters"
    parameters.mkdir(parents=True)
    (parameters / "kick").write_text("")
    looks = {"hasten": 0, "kick": 0}

    def hasten(_: Livepatches, name: str, milliseconds: int) -> bool:
        looks["hasten"] += native.HASTEN_LOOKS
        started.set()
        assert written.wait(10)
        time.sleep(0.1)  # the thread has ended, also on a busy machine
        return True

    def kick(_: Livepatches, name: str) -> bool:
        looks["kick"] += 1
        return True

    def set_enabled(_: Livepatches, name: str, enabled: bool) -> int:
        assert started.wait(10)  # no task is in the way: the kernel undoes it within the write
        written.set()
        return 0

    started, written = threading.Event(), threading.Event()
    monkeypatch.setattr(Livepatches, "hasten", hasten)
    monkeypatch.setattr(Livepatches, "looks", lambda *_: looks["hasten"])
    monkeypatch.setattr(Livepatches, "kick", kick)
    monkeypatch.setattr(Livepatches, "set_enabled", set_enabled)
    model = native.NativeModel(patches=Livepatches(tmp_path))
    model.turn_off("fix", 1.0)
    assert not model.wait("fix", 0.6).finished
    at_the_start = 1
    assert at_the_start + sum(looks.values()) < 15
    assert looks["kick"] >= 3
