# SPDX-License-Identifier: GPL-2.0-or-later
"""Inside a guest: what the engine does when things do not go by themselves.

``python3 -m tests.guest.engine_scenarios NAME MODEL`` runs the function NAME. Each ends as it
began: nothing is loaded but the engine and lgc_target, and the old code runs.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from livegraft.lab.witness.driver import (
    ENGINE,
    Patch,
    counts,
    insert,
    load,
    remove,
    tell,
    unload,
)

PAYLOADS = ("lgc_one", "lgc_two", "lgc_pair", "lgb_patch_1")
ERESTARTSYS = 512
MANY = 100
FTRACE = Path("/proc/sys/kernel/ftrace_enabled")
OPTIONS = ENGINE / "options"
TRACING = Path("/sys/kernel/tracing")

_libc = ctypes.CDLL(None, use_errno=True)


def version() -> int:
    """The version of the functions that this process calls."""
    tell("r0")
    tell("c0")
    old, new, other, mixed = counts()["syscall"]
    assert mixed == 0
    (found,) = [number for number, calls in enumerate((old, new, other)) if calls]
    return found


def loaded() -> list[str]:
    """The payloads whose modules are there."""
    return [each for each in PAYLOADS if Path("/sys/module", each).exists()]


class Dozer:
    """A process that sleeps inside lgc_doze(), whichever version that is.

    Args:
        how: 0: no signal wakes it; otherwise the errno that a signal makes of its call.
    """

    def __init__(self, how: int) -> None:
        self.pid = os.fork()
        if not self.pid:
            file = os.open("/proc/lgc", os.O_RDWR)
            # Not os.write(), which would begin again after EINTR.
            done = _libc.write(file, f"z{how}".encode(), len(f"z{how}"))
            os._exit(100 + ctypes.get_errno() if done < 0 else done - 1)
        self.asleep()

    def asleep(self) -> None:
        """Wait until it sleeps there."""
        end = time.monotonic() + 30
        while self._state() not in "SD" or "_doze" not in self._stack():
            assert time.monotonic() < end, "nobody sleeps in lgc_doze"
            time.sleep(0.01)

    def _state(self) -> str:
        """Its letter. Of a task that may run nobody looks at the stack: with a probe of returns on
        it, 6.1 warns of that (kernel/trace/rethook.c, ``rethook_find_ret_addr``)."""
        return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0]

    def _stack(self) -> str:
        return Path(f"/proc/{self.pid}/stack").read_text()

    def result(self) -> int:
        """Wait for its end: the version that returned, or 100 and its errno."""
        _, status = os.waitpid(self.pid, 0)
        self.pid = 0
        return os.waitstatus_to_exitcode(status)

    def woken(self) -> int:
        """Wake it."""
        tell("k0")
        return self.result()


@contextmanager
def dozing(how: int = 0) -> Iterator[Dozer]:
    """A task that stands in the way for the time of the block."""
    dozer = Dozer(how)
    try:
        yield dozer
    finally:
        if dozer.pid:
            tell("k0")
            os.kill(dozer.pid, signal.SIGKILL)
            os.waitpid(dozer.pid, 0)


def begun(model: str, name: str = "lgc_one") -> Patch:
    """Load a payload while somebody is in the way."""
    assert insert(name, model=model) == ""
    patch = Patch(name, model)
    time.sleep(0.3)
    assert patch.changing
    assert patch.read("enabled") == "1"
    return patch


def named(patch: Patch, dozer: Dozer, function: str) -> None:
    """The one in the way is named, and nobody else for long."""
    end = time.monotonic() + 10
    while True:
        rows = [row.split(maxsplit=3) for row in patch.read("blockers").splitlines()]
        if [int(row[0]) for row in rows] == [dozer.pid] or time.monotonic() > end:
            break
        time.sleep(0.05)
    ((pid, milliseconds, kind, symbol),) = rows
    assert int(pid) == dozer.pid
    assert int(milliseconds) >= 300
    if patch.model == "task":
        assert kind == "kernel"
    else:
        assert (kind, symbol.partition("+")[0]) == ("inside", function)
    assert patch.read("left") == "1"


def applying_is_reversed(model: str) -> None:
    """Undone while a task sleeps in the old function, which it goes on with."""
    undone_in_the_middle(model, 20)


def undone_in_the_middle(model: str, seconds: float) -> None:
    with dozing() as dozer:
        patch = begun(model)
        assert patch.read("phase") == "applying"
        named(patch, dozer, "lgc_doze")
        assert patch.write("enabled", "0") == ""
        patch.settled(seconds)
        patch.gone()
        assert version() == 0
        assert dozer.woken() == 0


def undoing_is_reversed(model: str) -> None:
    """Turned on again while a task sleeps in the new function, which it goes on with."""
    patch = load("lgc_one", model)
    with dozing() as dozer:
        assert patch.write("enabled", "0") == ""
        time.sleep(0.3)
        assert (patch.read("phase"), patch.read("transition")) == ("undoing", "1")
        named(patch, dozer, "new_doze")
        assert patch.write("enabled", "1") == ""
        patch.settled(20)
        assert (patch.read("phase"), patch.read("enabled")) == ("applied", "1")
        assert version() == 1
        assert dozer.woken() == 1
    unload(patch)


def those_signalled_are_called_back(model: str) -> None:
    """Tasks that sleep elsewhere changed sides at a signal and sleep again: when the change is
    reversed they are needed once more, and nothing else wakes them."""
    sleepers = []
    for _ in range(5):
        sleepers.append(os.fork())
        if not sleepers[-1]:
            signal.pause()
            os._exit(1)
    try:
        undone_in_the_middle(model, 5)
    finally:
        for each in sleepers:
            os.kill(each, signal.SIGKILL)
            os.waitpid(each, 0)


def a_task_that_sleeps_on(model: str) -> None:
    """Nothing ends by itself; once the task has left it does."""
    with dozing() as dozer:
        patch = begun(model)
        time.sleep(3)
        assert patch.changing
        assert insert("lgc_two", model=model) == "EBUSY"
        assert remove("livegraft_engine") == "EAGAIN"
        assert dozer.woken() == 0
        patch.settled(20)
        # Signals come late; task needs one to make sleepers leave.
        assert model == "task" or patch.read("signalled") == "0"
        assert version() == 1
    unload(patch)


@contextmanager
def kretprobe(function: str) -> Iterator[Callable[[int], bool]]:
    """A probe of a function's returns; whether a task's into lgc_doze() was seen.

    It writes a trampoline's address over that of the caller, on the stack.
    """
    events = TRACING / "kprobe_events"
    events.write_text(f"r500:lgt/returned {function}")
    enable = TRACING / "events/lgt/returned/enable"
    try:
        enable.write_text("1")
        yield lambda pid: any("(lgc_doze+" in line for line in traced_of(pid))
    finally:
        enable.write_text("0")
        events.write_text("")  # opened to be written anew, which takes all probes away


@contextmanager
def function_graph(function: str) -> Iterator[Callable[[int], bool]]:
    """The tracer of a function's returns, which it sees by the same means; whether one of a task's
    calls was seen."""
    tracer, only = TRACING / "current_tracer", TRACING / "set_ftrace_filter"
    only.write_text(function)
    try:
        tracer.write_text("function_graph")
        (TRACING / "trace_options").write_text("funcgraph-proc")
        yield lambda pid: bool(traced_of(pid))
    finally:
        tracer.write_text("nop")
        only.write_text("")


def traced_of(pid: int) -> list[str]:
    """The lines of the trace that tell of a task."""
    return [line for line in (TRACING / "trace").read_text().splitlines() if f"-{pid} " in line]


def sleepers_with_traced_returns(model: str) -> None:
    """The patched function's address is not where its callee returns to: it is found all the same,
    and does not change sides while it is inside."""
    for traced in (kretprobe, function_graph):
        with traced("schedule") as seen, dozing() as dozer:
            patch = begun(model)
            named(patch, dozer, "lgc_doze")
            pid = dozer.pid
            assert dozer.woken() == 0
            assert seen(pid)
            patch.settled(20)
            assert version() == 1
        unload(patch)


def a_signal_ends_a_call(model: str) -> None:
    """What user space sees of it is counted, also of those that another has moved meanwhile."""
    with ExitStack() as stack:
        dozers = [stack.enter_context(dozing(errno.EINTR)) for _ in range(20)]
        assert insert("lgc_one", model=model) == ""
        patch = Patch("lgc_one", model)
        patch.write("signal", "1")
        patch.settled(20)
        assert patch.read("interrupted") == "20"
        assert int(patch.read("signalled")) >= 20
        assert [dozer.result() for dozer in dozers] == [100 + errno.EINTR] * 20
    unload(patch)


def a_signal_restarts_a_call(model: str) -> None:
    """User space sees nothing of it; the call goes on in the new function."""
    with dozing(ERESTARTSYS) as dozer:
        assert insert("lgc_one", model=model) == ""
        patch = Patch("lgc_one", model)
        patch.write("signal", "1")
        patch.settled(20)
        dozer.asleep()
        assert int(patch.read("restarted")) >= 1
        assert dozer.woken() == 1
    unload(patch)


def all_asleep(function: str) -> None:
    """Wait until MANY threads of this process sleep inside a function."""
    end = time.monotonic() + 30
    while True:
        stacks = [each / "stack" for each in Path("/proc/self/task").iterdir()]
        asleep = sum(f" {function}+" in each.read_text() for each in stacks)
        if asleep == MANY:
            return
        assert time.monotonic() < end, f"{asleep} sleep in {function}"
        time.sleep(0.02)


def a_signal_restarts_many_calls(model: str) -> None:
    """More than `blockers` names: each is signalled, and no call is back in the old function when
    the last one leaves it."""
    returned: list[int] = []

    def doze() -> None:
        file = os.open("/proc/lgc", os.O_RDWR)
        returned.append(_libc.write(file, b"z512", 4) - 1)
        os.close(file)

    threads = [threading.Thread(target=doze, daemon=True) for _ in range(MANY)]
    for each in threads:
        each.start()
    all_asleep("lgc_doze")
    assert insert("lgc_one", model=model) == ""
    patch = Patch("lgc_one", model)
    patch.write("signal", "1")
    patch.settled(20)
    assert int(patch.read("signalled")) >= MANY
    all_asleep("new_doze")
    tell("k0")
    for each in threads:
        each.join()
    assert returned == [1] * MANY
    unload(patch)


def a_process_that_is_stopped(model: str) -> None:
    """It is in the kernel for as long as it likes, and on its way to user mode."""
    pid = os.fork()
    if not pid:
        while True:
            time.sleep(1)
    os.kill(pid, signal.SIGSTOP)
    os.waitpid(pid, os.WUNTRACED)
    try:
        unload(load("lgc_one", model, 20), 20)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def two_patches(model: str) -> None:
    """The later one is in force for as long as it is there, in whichever order they go."""
    one, two = load("lgc_one", model), load("lgc_two", model)
    assert version() == 2
    unload(two)
    assert version() == 1
    two = load("lgc_two", model)
    unload(one)
    assert version() == 2
    unload(two)


def a_patch_that_replaces(model: str) -> None:
    """The older one goes in the same change."""
    one = load("lgc_one", model)
    OPTIONS.write_text("lgc_two replace\n")
    assert OPTIONS.read_text() == "lgc_two replace\n"
    two = load("lgc_two", model)
    assert OPTIONS.read_text() == ""
    one.gone()
    assert version() == 2
    unload(two)


def ftrace_handlers(model: str) -> None:
    """Without direct calls; a kprobe shares the function with either."""
    for word, direct in (("", "1"), (" no-direct", "0")):
        OPTIONS.write_text(f"lgc_one{word}\n")
        patch = load("lgc_one", model)
        assert patch.read("direct") == direct
        assert insert("lgc_rival") == ""
        assert version() == 1
        assert int(Path("/sys/module/lgc_rival/parameters/hits").read_text()) > 0
        assert remove("lgc_rival") == ""
        assert version() == 1
        unload(patch)


def redirected_by_another(model: str) -> None:
    """By a kprobe that may change where to, or by the kernel's own core: nothing is changed."""
    for word in ("", " no-direct"):
        OPTIONS.write_text(f"lgc_one{word}\n")
        assert insert("lgc_rival", post=1) == ""
        assert insert("lgc_one", model=model) == "EBUSY"
        assert (loaded(), version()) == ([], 0)
        assert remove("lgc_rival") == ""
        native = load("lgc_two", "native")
        OPTIONS.write_text(f"lgc_one{word}\n")
        assert insert("lgc_one", model=model) == "EBUSY"
        assert (loaded(), version()) == (["lgc_two"], 2)
        unload(native)
    unload(load("lgc_one", model))


def a_callback_that_fails(model: str) -> None:
    """Its errno is that of the load, and nothing is left."""
    assert insert("lgc_one", model=model, fail=errno.ENOMEM) == "ENOMEM"
    assert loaded() == []
    unload(load("lgc_one", model))


def ftrace_switched_off(model: str) -> None:
    """Refused before, and it cannot be switched off after."""
    FTRACE.write_text("0")
    try:
        assert insert("lgc_one", model=model) == "EBUSY"
    finally:
        FTRACE.write_text("1")
    assert loaded() == []
    for word in ("", " no-direct"):
        OPTIONS.write_text(f"lgc_one{word}\n")
        patch = load("lgc_one", model)
        try:
            FTRACE.write_text("0")
        except OSError as error:
            assert error.errno == errno.EBUSY
        assert FTRACE.read_text() == "1\n"
        assert version() == 1
        unload(patch)


def loaded_again_at_once(model: str) -> None:
    """The module may come again as soon as it could go."""
    for _ in range(20):
        patch = load("lgc_one", model)
        assert patch.write("enabled", "0") == ""
        end = time.monotonic() + 30
        while remove("lgc_one"):
            assert time.monotonic() < end


def forced(model: str) -> None:
    """What is left changes sides; the module stays for good. Each payload can do that once."""
    name = {"hybrid": "lgc_one", "task": "lgc_two"}[model]
    with dozing() as dozer:
        assert insert(name, model=model) == ""
        patch = Patch(name, model)
        time.sleep(0.3)
        assert patch.changing
        assert patch.read("forced") == "0"
        assert patch.write("force", "1") == ""
        patch.settled(20)
        assert patch.read("forced") == "1"
        assert version() == {"lgc_one": 1, "lgc_two": 2}[name]
        assert dozer.woken() == 0
    assert patch.write("enabled", "0") == ""
    patch.settled(20)
    end = time.monotonic() + 30
    while patch.folder.exists():
        assert time.monotonic() < end
        time.sleep(0.05)
    assert remove(name) == "EAGAIN"
    assert version() == 0


def state(name: str) -> dict[str, str]:
    """What the engine says of a payload."""
    files = ("phase", "model", "moved", "left", "blockers", "times", "forced")
    folder = ENGINE / name
    return {each: (folder / each).read_text() for each in files if (folder / each).exists()}


def clean(model: str) -> None:
    """After a failure: take out what there is, for what follows."""
    tell("k0")
    for name in reversed(loaded()):
        print(name, state(name), file=sys.stderr)
        for each in (model, "native"):
            if Patch(name, each).folder.exists():
                unload(Patch(name, each), 10)


def run(scenarios: Mapping[str, Any], words: Sequence[str]) -> None:
    """Run one and look whether it ended as it began.

    Args:
        scenarios: the functions by their names.
        words: the function's name, and the model's.
    """
    name, model = words
    before = loaded()
    try:
        scenarios[name](model)
    except BaseException:
        clean(model)
        raise
    if name != "forced":
        assert loaded() == before
    assert sorted(each.name for each in ENGINE.iterdir() if each.is_dir()) == []
    assert version() == 0


def main(words: Sequence[str]) -> None:
    """Run one of these: its name, and the model's."""
    run(globals(), words)


if __name__ == "__main__":
    main(sys.argv[1:])
