# SPDX-License-Identifier: GPL-2.0-or-later
"""All or nothing: what a load or an unload leaves when it is late, interrupted or not heard."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import NoReturn, cast

import pytest

from livegraft.errors import KernelRefused, PatchError, TransitionTimeout
from livegraft.progress import SILENT, Progress
from livegraft.runtime import (
    Loaded,
    Unloaded,
    __main__,
    blockers,
    commandline,
    interruption,
    loading,
    lock,
    unloading,
)
from livegraft.runtime.identity import Identity
from livegraft.runtime.kernellog import KernelLog
from livegraft.runtime.livepatch import LivePatch, Livepatches
from livegraft.runtime.model import Detail, Model, ModelName, Options, Phase, Wait
from livegraft.runtime.payload import Payload
from livegraft.runtime.stacks import Code
from livegraft.runtime.stall import OnStall
from livegraft.runtime.state import PatchState
from livegraft.runtime.trusting import Trust

ENDED = Wait(True, False, 0, 0.0)
LATE = Wait(False, False, 0, 0.0)

NO_CODE = Code(frozenset())

Event = Callable[[], object]


def end_it() -> None:
    # To this thread: one that another thread of the tests takes would come later.
    signal.raise_signal(signal.SIGTERM)


def refuse() -> NoReturn:
    raise KernelRefused("fix", "is loaded already", "", "EEXIST", ())


class Kernel(Model):
    """A kernel with at most one patch, at once its sysfs and the model that drives it.

    Args:
        there: the patch is loaded and on.
        waits: how the waits end, in order; all later ones end well.
        on: what happens at the call of that name.
    """

    name = ModelName.HYBRID  # nothing of this machine is looked at, as for native's cold parts
    root = Path("/nonexistent")

    def __init__(self, there: bool, *waits: Wait, **on: Event) -> None:
        self.module = self.known = self.enabled = there
        self.transition = False
        self.reversible = True
        self.waits = list(waits)
        self.on = on
        self.calls: list[str] = []
        self.patches = cast(Livepatches, self)
        self.forced = False

    def call(self, name: str) -> None:
        self.calls.append(name)
        self.on.get(name, lambda: None)()

    # -- the model --

    def require(self) -> None:
        pass

    def accept(self, payload: Payload, options: Options) -> None:
        pass

    def insert(self, payload: Payload, options: Options) -> None:
        self.call("insert")
        self.module = self.known = self.enabled = self.transition = True

    def wait(self, name: str, seconds: float) -> Wait:
        result = self.waits.pop(0) if self.waits else ENDED
        if result.finished:
            self.transition = False
        self.call("wait")
        return result

    def turn_off(self, name: str, seconds: float) -> None:
        self.call("turn_off")
        self.enabled, self.transition = False, True

    def turn_on_again(self, name: str) -> bool:
        self.call("turn_on_again")
        if self.reversible:
            self.enabled = True
        return self.reversible

    def signal(self, name: str) -> None:
        self.call("signal")

    def force(self, name: str) -> None:
        self.call("force")
        self.forced = True

    def was_forced(self, name: str) -> bool:
        return self.forced

    def detail(self, patch: LivePatch) -> Detail:
        self.on.get("detail", lambda: None)()
        return Detail(Phase.APPLYING, 0, 0, (), self.forced, None, {}, {})

    def remove(self, name: str) -> None:
        self.call("remove")
        assert not self.enabled
        self.module = False

    # -- sysfs --

    def get(self, name: str) -> LivePatch | None:
        if self.known and not self.enabled and not self.transition:
            self.known = False  # seen once more, as until the core's work item has run
            return LivePatch(name, False, False, (), None, None)
        if not self.known:
            return None
        return LivePatch(name, self.enabled, self.transition, (), None, None)

    def is_loaded(self, name: str) -> bool:
        return self.module


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No look at this machine, whose patches and locks are no business of these tests."""
    monkeypatch.setattr(loading._Attempt, "_look_around", lambda *_: None)
    monkeypatch.setattr(lock, "alone", lambda *_: nullcontext())


class Interrupted(Exception):
    """A KeyboardInterrupt that came out: pytest itself would end at one that no test expects."""


@contextmanager
def interruptible() -> Iterator[None]:
    try:
        with interruption.as_interrupts():
            yield
    except KeyboardInterrupt as error:
        raise Interrupted from error


@contextmanager
def log() -> Iterator[KernelLog]:
    with KernelLog(device=Path("/nonexistent")) as empty:
        yield empty


def load(kernel: Kernel, progress: Progress = SILENT, on_stall: OnStall = OnStall.UNDO) -> Loaded:
    payload = SimpleNamespace(name="fix", manifest=None, relocated_modules=())
    found = cast(Identity, SimpleNamespace(absent=(), warnings=()))
    with log() as empty, interruptible():
        return loading._Attempt(
            kernel,
            cast(Payload, payload),
            Trust((), (), ()),
            found,
            kernel.patches,
            empty,
            Options(),
        ).run(1.0, on_stall, progress)


def unload(
    kernel: Kernel, progress: Progress = SILENT, on_stall: OnStall = OnStall.UNDO
) -> Unloaded:
    with log() as empty, interruptible():
        return unloading._Attempt("fix", kernel, kernel.patches, empty).run(1.0, on_stall, progress)


class Deaf(Progress):
    """A terminal that is lost."""

    def __init__(self, kernel: Kernel) -> None:
        super().__init__()
        self.kernel = kernel
        self.calls_before: list[str] = []

    def note(self, text: str) -> None:
        self.calls_before = list(self.kernel.calls)
        raise OSError(5, "Input/output error")


class Heard(Progress):
    def __init__(self) -> None:
        super().__init__()
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def test_a_load_and_an_unload() -> None:
    kernel = Kernel(False)
    assert load(kernel).state is PatchState.ENABLED
    assert unload(kernel).state is PatchState.UNLOADED
    assert kernel.calls == ["insert", "wait", "turn_off", "wait", "remove"]


def test_the_module_of_a_forced_patch_stays_without_a_try() -> None:
    """Also if the kernel has forgotten the patch by the time that it is seen to be undone."""
    kernel = Kernel(True, wait=lambda: setattr(kernel, "known", False))
    kernel.forced = True
    undone = unload(kernel)
    assert (undone.state, undone.forced) == (PatchState.DISABLED, True)
    assert "remove" not in kernel.calls


def test_how_long_an_undo_took() -> None:
    """By the engine, or as seen from here if it has forgotten the patch too soon."""
    told = unload(Kernel(True, ENDED._replace(times={"move_ms": 0.7})))
    assert (told.transition_ms, told.tasks_ms, told.times) == (0.7, 0.7, {"move_ms": 0.7})
    seen = unload(Kernel(True))
    assert (seen.transition_ms, seen.tasks_ms) == (round(seen.wait_ms, 3), None)


def test_an_undo_that_is_not_complete_or_never_was_has_no_length() -> None:
    left = unload(Kernel(True, LATE), on_stall=OnStall.WAIT)
    assert (left.state, left.transition_ms) == (PatchState.TRANSITION, None)
    disabled = Kernel(False)
    disabled.module = True
    assert unload(disabled).transition_ms is None
    kernel = Kernel(True, LATE)
    kernel.reversible = False
    late = unload(kernel)  # complete a moment after its time was over
    assert (late.state, late.transition_ms) == (PatchState.UNLOADED, None)


# -- evidence ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        (b"\xff\n", "\\xff"),
        ("ä".encode()[:1] + b"\n", "\\xc3"),
        (b"a\x1b[2Jb\nc\td\n", "a\\x1b[2Jb\\nc\\td"),
    ],
)
def test_any_name_of_a_task(raw: bytes, shown: str, tmp_path: Path) -> None:
    folder = tmp_path / "7/task/7"
    folder.mkdir(parents=True)
    (folder / "patch_state").write_text("0\n")
    (folder / "comm").write_bytes(raw)
    (folder / "status").write_bytes(b"Name:\t" + raw.rstrip() + b"\nState:\tS (sleeping)\n")
    (only,) = blockers.sides(1, NO_CODE, None, tmp_path).blockers
    assert (only.comm, only.state) == (shown, "S (sleeping)")


def test_sysfs_of_any_bytes(tmp_path: Path) -> None:
    place = tmp_path / "sys/module/fix/parameters/livegraft"
    place.parent.mkdir(parents=True)
    place.write_bytes(b"\xff\x1b\n")
    assert Livepatches(tmp_path).parameter("fix", "livegraft") == "\\xff\\x1b"


@pytest.mark.parametrize("there", [False, True])
def test_missing_evidence_prevents_no_undo(there: bool) -> None:
    def fail() -> NoReturn:
        raise ValueError

    kernel = Kernel(there, LATE, detail=fail)
    with pytest.raises(TransitionTimeout, match="nothing was changed"):
        unload(kernel) if there else load(kernel)
    assert kernel.enabled == kernel.module == there


# -- interruptions ----------------------------------------------------------------------------


@pytest.mark.parametrize("event", ["insert", "wait"])
def test_an_interrupted_load_is_undone_before_it_is_told(event: str) -> None:
    kernel = Kernel(False, **{event: end_it})
    deaf = Deaf(kernel)
    with pytest.raises(OSError):
        load(kernel, deaf)
    assert deaf.calls_before[-1] == "remove"
    assert not kernel.module

    kernel = Kernel(False, **{event: end_it})
    heard = Heard()
    with pytest.raises(Interrupted):
        load(kernel, heard)
    assert heard.notes == ["fix: interrupted, and undone"]


@pytest.mark.parametrize("event", ["turn_off", "wait"])
def test_an_interrupted_unload_is_turned_on_before_it_is_told(event: str) -> None:
    kernel = Kernel(True, LATE, **{event: end_it})
    deaf = Deaf(kernel)
    with pytest.raises(OSError):
        unload(kernel, deaf)
    assert "turn_on_again" in deaf.calls_before
    assert kernel.enabled and kernel.module


@pytest.mark.parametrize("there", [False, True])
def test_no_signal_while_evidence_is_collected(there: bool) -> None:
    kernel = Kernel(there, LATE, detail=end_it)
    with pytest.raises(TransitionTimeout):
        unload(kernel) if there else load(kernel)
    assert kernel.enabled == kernel.module == there


def test_no_signal_after_a_load_has_succeeded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "last_transition", lambda *_: end_it())
    assert load(Kernel(False)).state is PatchState.ENABLED


def test_no_signal_between_undoing_and_removing() -> None:
    kernel = Kernel(True, detail=end_it, remove=end_it)
    assert unload(kernel).state is PatchState.UNLOADED
    assert not kernel.module


@pytest.mark.parametrize("number", interruption.ENDING)
def test_a_second_signal_does_not_beat_the_undoing(number: signal.Signals) -> None:
    reached = False
    with interruptible():
        try:
            end_it()
        except KeyboardInterrupt:
            signal.raise_signal(number)  # before the undo can ask not to be disturbed
            reached = True
    assert reached


def test_signals_wait_while_held_back() -> None:
    done = False
    with pytest.raises(Interrupted), interruptible():
        with interruption.held_back():
            end_it()
            done = True
        pytest.fail("the signal was lost")
    assert done
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, ()) & set(interruption.ENDING)


def test_an_interrupted_load_leaves_the_patch_of_another() -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    def both() -> None:
        end_it()
        refuse()

    for event in (interrupted, both, refuse):
        kernel = Kernel(True, insert=event)
        with pytest.raises((Interrupted, KernelRefused)):
            load(kernel)
        assert kernel.calls == ["insert"]
        assert kernel.enabled


# -- an undo that is complete just now --------------------------------------------------------


@pytest.mark.parametrize("reversible", [True, False])
def test_an_unload_that_is_complete_at_its_timeout(reversible: bool) -> None:
    kernel = Kernel(True, LATE)
    kernel.reversible = reversible
    if reversible:
        with pytest.raises(TransitionTimeout, match="turned on again"):
            unload(kernel)
    else:
        assert unload(kernel).state is PatchState.UNLOADED
    assert kernel.module == kernel.enabled == reversible


def test_an_unload_that_is_complete_when_it_is_interrupted() -> None:
    kernel = Kernel(True, wait=end_it)
    kernel.reversible = False
    heard = Heard()
    with pytest.raises(Interrupted):
        unload(kernel, heard)
    assert not kernel.module
    assert "it is unloaded" in heard.notes[0]


def test_an_unload_that_somebody_reverses() -> None:
    kernel = Kernel(True)
    kernel.on["wait"] = lambda: setattr(kernel, "enabled", True)
    with pytest.raises(PatchError, match="somebody else"):
        unload(kernel)
    assert "remove" not in kernel.calls


# -- talk -------------------------------------------------------------------------------------


class LostTerminal:
    def write(self, text: str) -> int:
        raise OSError(5, "Input/output error")

    def flush(self) -> None:
        raise OSError(5, "Input/output error")


def test_a_note_never_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", LostTerminal())
    __main__.Terminal().note("undone")


def test_an_interrupt_is_not_told_as_an_undo(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    monkeypatch.setattr(commandline, "run", stop)
    assert __main__.main(["status"]) == 1
    said = capsys.readouterr().err
    assert "interrupted" in said and "undone" not in said
