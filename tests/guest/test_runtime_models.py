# SPDX-License-Identifier: GPL-2.0-or-later
"""The models of the engine, stalls, others who redirect functions, and what is seen beforehand."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from tests.live import (
    NEWER,
    PAYLOAD,
    ROOT,
    RUNTIME,
    TARGET,
    answer,
    booted,
    dozing,
    in_transition,
    left_clean,
    loaded,
    patched_by,
    verb,
    wake,
)
from tests.resident import run_main

from livegraft.kernel.kernel import Kernel
from livegraft.lab.guest import Guest
from livegraft.runtime.stall import FORCE_FLAG
from livegraft.runtime.trusting import UNSIGNED

pytestmark = pytest.mark.guest

FOLLOWING = """
import sys, threading
from pathlib import Path
from livegraft import runtime
seen = []
with runtime.loaded(Path(sys.argv[1]), model="hybrid") as patch:
    follower = threading.Thread(
        target=lambda: seen.extend(each.state.value for each in runtime.events(patch.name))
    )
    follower.start()
    print(Path(sys.argv[2]).read_text().strip(), patch.state)
follower.join()
print(seen[-1])
"""
"""A patch as long as a block lasts, and a thread that follows it."""

ENGINE = "/sys/kernel/livegraft"
MODELS = ("hybrid", "stop", "task")
ALL = ("native", *MODELS)


@pytest.fixture(scope="module")
def guest(
    one_kernel: Kernel,
    engine: Callable[[Kernel], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Guest]:
    loader = "tests/guest/killed_loader.py"
    more = {"ko/livegraft_engine.ko": engine(one_kernel), f"root/{loader}": ROOT / loader}
    with booted(one_kernel, tmp_path_factory.mktemp("modules"), more) as guest:
        yield guest


@pytest.fixture(autouse=True)
def clean(guest: Guest, request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if request.function is not test_forced:
        left_clean(guest)


@pytest.fixture(scope="module")
def with_engine(guest: Guest) -> Guest:
    guest.check(["insmod", "/ko/livegraft_engine.ko"])
    return guest


def load(guest: Guest, model: str, *arguments: str) -> dict[str, Any]:
    status, document = verb(guest, "load", PAYLOAD, "--model", model, *arguments)
    assert status == 0, document
    return document


def unload(guest: Guest) -> dict[str, Any]:
    status, document = verb(guest, "unload", "lgt_payload")
    assert status == 0, document
    (only,) = document["unloaded"]
    assert guest.run(["test", "-e", "/sys/module/lgt_payload"]).status == 1
    return dict(only)


def error(guest: Guest, *arguments: str) -> dict[str, Any]:
    status, document = verb(guest, *arguments)
    assert status != 0
    return dict(document["error"])


# -- others who redirect functions --------------------------------------------------------------


def test_an_agent_is_found_before_anything_changes(guest: Guest) -> None:
    guest.check(["insmod", "/ko/lgt_agent.ko"])
    try:
        before = len(guest.kernel_log())
        found = error(guest, "load", PAYLOAD)
        said = [each.text for each in guest.kernel_log()[before:]]
    finally:
        guest.check(["rmmod", "lgt_agent"])
    assert "cmdline_proc_show is redirected by another user of ftrace" in found["message"]
    assert "lgt_agent" in found["message"]
    assert not [text for text in said if "livepatch" in text]


def test_an_agent_that_comes_later_is_told_of(guest: Guest) -> None:
    load(guest, "native")
    (before,) = verb(guest, "status")[1]["patches"]
    assert (before["redirections"], before["warnings"]) == ([], [])
    guest.check(["insmod", "/ko/lgt_agent.ko"])
    try:
        assert patched_by(guest) == "lgt_payload"  # they share it
        (after,) = verb(guest, "status")[1]["patches"]
    finally:
        guest.check(["rmmod", "lgt_agent"])
    (only,) = after["redirections"]
    assert (only["function"], only["kind"]) == ("cmdline_proc_show", "other")
    assert "lgt_agent" in only["owner"]
    assert any("cmdline_proc_show is redirected by" in each for each in after["warnings"])
    unload(guest)


def test_a_patch_on_top_is_told_of(guest: Guest) -> None:
    load(guest, "native")
    assert verb(guest, "load", "/ko/lgt_foreign.ko", "--foreign")[0] == 0
    newer, older = verb(guest, "status")[1]["patches"]
    assert newer["warnings"] == []
    assert any("lgt_foreign, which was loaded later" in each for each in older["warnings"])
    assert verb(guest, "unload", "--all")[0] == 0


def test_ftrace_switched_off(guest: Guest) -> None:
    place = "/proc/sys/kernel/ftrace_enabled"
    guest.check(["sh", "-c", f"echo 0 > {place}"])
    try:
        assert "ftrace is switched off" in error(guest, "load", PAYLOAD)["message"]
    finally:
        guest.check(["sh", "-c", f"echo 1 > {place}"])


# -- two loaders, and one that is killed --------------------------------------------------------


def test_two_loads_at_once(guest: Guest) -> None:
    """Exactly one wins, whichever; the other is told so and has changed nothing."""
    jobs = [guest.start([*RUNTIME, "load", PAYLOAD]) for _ in range(2)]
    results = [job.wait(120) for job in jobs]
    assert sorted(each.status for each in results) == [0, 1]
    (loser,) = (each for each in results if each.status)
    assert b"is loaded already" in loser.stderr
    assert loaded(guest) == {"lgt_payload": "enabled"}
    unload(guest)


def test_a_loader_that_holds_the_lock(guest: Guest) -> None:
    hold = "import fcntl, time; f = open('/run/livegraft.lock', 'w'); fcntl.flock(f, 2); "
    job = guest.start(["python3", "-c", hold + "print('mine', flush=True); time.sleep(60)"])
    end = time.monotonic() + 60
    while b"mine" not in job.output():
        assert job.running and time.monotonic() < end
    found = error(guest, "load", PAYLOAD, "--timeout", "0.5")
    assert "another livegraft is loading" in found["message"]
    job.kill(signal.SIGKILL)
    job.wait(60)
    load(guest, "native")  # the kernel has given the lock back
    unload(guest)


def test_a_killed_loader_leaves_what_can_be_unloaded(guest: Guest) -> None:
    with dozing(guest):
        job = guest.start([*RUNTIME, "load", PAYLOAD])
        in_transition(guest)
        job.kill(signal.SIGKILL)
        job.wait(60)
        assert loaded(guest) == {"lgt_payload": "transition"}
        unload(guest)


# -- what is seen beforehand and meanwhile ------------------------------------------------------


def test_a_forecast(guest: Guest) -> None:
    status, document = verb(guest, "forecast", PAYLOAD, "--seconds", "2")
    assert status == 0, document
    found = {each["model"]: each for each in document["models"]}
    assert found["native"]["available"] and found["native"]["chance"] == 1
    assert found["hybrid"]["chance"] == found["stop"]["chance"] == 1
    with dozing(guest):
        _, document = verb(guest, "forecast", PAYLOAD, "--seconds", "2")
    for each in document["models"]:
        assert each["chance"] == 0, each
        (blocker,) = (one for one in each["blockers"] if one["function"])
        assert (blocker["comm"], blocker["function"]) == ("sh", "lgt_doze")
    assert loaded(guest) == {}


def test_blockers(guest: Guest) -> None:
    with dozing(guest):
        assert verb(guest, "load", PAYLOAD, "--timeout", "1", "--on-stall", "wait")[0] == 0
        status, document = verb(guest, "blockers", "lgt_payload")
        assert status == 0
        assert document["left"] >= 1 and document["moved"] > 10
        (only,) = (each for each in document["blockers"] if each["function"])
        assert (only["kind"], only["comm"], only["function"]) == ("inside", "sh", "lgt_doze")
        assert "doze_set" in only["stack"]
        assert only["waiting_ms"] >= 500
        assert "leave" in only["moves"]
        text = guest.check([*RUNTIME, "blockers", "lgt_payload"]).text
        assert "what would move it" in text
    assert verb(guest, "wait", "lgt_payload")[0] == 0
    unload(guest)


# -- cold parts ---------------------------------------------------------------------------------


def test_native_waits_until_nobody_is_in_a_cold_part(guest: Guest) -> None:
    with dozing(guest, "shiver", "lgt_shiver.cold+"):
        found = error(guest, "load", PAYLOAD, "--timeout", "1")
        assert "inside lgt_shiver.cold" in found["message"]
        assert "was not loaded" in found["message"]
        assert loaded(guest) == {}
        job = guest.start([*RUNTIME, "load", PAYLOAD, "--json"])
        time.sleep(3)
        assert loaded(guest) == {}
    result = job.wait(120)
    assert result.status == 0, result
    assert b'"lgt_target:lgt_shiver"' in result.stdout
    unload(guest)


def test_the_kernels_core_does_not_see_cold_parts(guest: Guest) -> None:
    """The control: without that wait the task runs the old code on when all are said to run the
    new."""
    with dozing(guest, "shiver", "lgt_shiver.cold+"):
        guest.check(["insmod", PAYLOAD])
        assert verb(guest, "wait", "lgt_payload")[0] == 0
        assert loaded(guest) == {"lgt_payload": "enabled"}
        assert guest.shell("cat /proc/[0-9]*/stack | grep -q lgt_shiver.cold").status == 0
    unload(guest)


def test_native_keeps_the_module_while_a_task_is_in_its_code(guest: Guest) -> None:
    """new_shiver() is left by a jump: the kernel's core takes a task in new_bed() for outside."""
    load(guest, "native")
    with dozing(guest, "shiver", "new_bed+"):
        found = error(guest, "unload", "lgt_payload")
        assert "still inside its code: new_bed" in found["message"]
        assert loaded(guest) == {"lgt_payload": "disabled"}
    unload(guest)


# -- a stall ------------------------------------------------------------------------------------


def test_force_has_to_be_said_twice(guest: Guest) -> None:
    status, document = verb(guest, "load", PAYLOAD, "--on-stall", "force")
    assert status == 2
    assert FORCE_FLAG in document["error"]["remedy"]


def test_native_signals(guest: Guest) -> None:
    """A task that hears no signal: it is signalled for, waited for again, and then undone."""
    with dozing(guest):
        began = time.monotonic()
        found = error(guest, "load", PAYLOAD, "--timeout", "1", "--on-stall", "signal")
        assert time.monotonic() - began > 2
        assert "undone" in found["message"]
    assert any("signaling remaining tasks" in each.text for each in guest.kernel_log())


# -- the engine ---------------------------------------------------------------------------------


def test_models(with_engine: Guest) -> None:
    status, document = verb(with_engine, "models")
    assert status == 0
    assert document["engine"]
    assert {each["name"]: each["available"] for each in document["models"]} == dict.fromkeys(
        ALL, True
    )


@pytest.mark.parametrize("model", MODELS)
def test_whole_life(with_engine: Guest, model: str) -> None:
    guest = with_engine
    document = load(guest, model)
    assert document["model"] == model
    assert document["direct"] is True
    assert document["warnings"] == [UNSIGNED]
    assert document["tasks_ms"] > 0
    assert answer(guest) == "2"
    assert patched_by(guest) == "lgt_payload"
    (patch,) = verb(guest, "status")[1]["patches"]
    assert (patch["state"], patch["model"], patch["phase"]) == ("enabled", model, "applied")
    now = float(guest.python("import time; print(time.time())").text)
    assert 0 < now - datetime.fromisoformat(patch["since"]).timestamp() < 60
    assert "is loaded already" in error(guest, "load", PAYLOAD, "--model", model)["message"]
    undone = unload(guest)
    assert undone["model"] == model
    assert undone["unloadable_ms"] >= undone["wait_ms"] >= undone["transition_ms"] > 0


@pytest.mark.parametrize("model", ALL)
def test_the_newer_patch_replaces_the_older(with_engine: Guest, model: str) -> None:
    """In one change, and for good: the older one's module stays, but nothing of it is in force."""
    guest = with_engine
    load(guest, model)
    status, document = verb(guest, "load", NEWER, "--model", model, "--replace")
    assert status == 0, document
    assert (document["state"], answer(guest), patched_by(guest)) == ("enabled", "3", "lgt_newer")
    assert loaded(guest) == {"lgt_newer": "enabled", "lgt_payload": "disabled"}
    assert guest.run(["sh", "-c", "test -e /sys/kernel/li*/lgt_payload"]).status == 1
    for name, left in (("lgt_payload", "3"), ("lgt_newer", "1")):
        status, document = verb(guest, "unload", name)
        assert (status, answer(guest)) == (0, left), document
    left_clean(guest)


@pytest.mark.parametrize("model", ["hybrid", "native"])
def test_what_a_later_patch_has_replaced_is_not_missed(with_engine: Guest, model: str) -> None:
    """Both are installed: the boot loads one after the other, and all is well then."""
    guest = with_engine
    guest.check(["mkdir", "-p", "/var/lib"])
    for path, more in ((PAYLOAD, ()), (NEWER, ("--replace",))):
        status, document = verb(guest, "install", path, "--model", model, *more)
        assert status == 0, document
    for outcomes in ("loaded loaded", "replaced present", "replaced present"):
        status, document = verb(guest, "boot")
        assert status == 0, document
        assert [each["outcome"] for each in document["patches"]] == outcomes.split()
        assert answer(guest) == "3"
        status, document = verb(guest, "status", "--check")
        assert (status, document["check"]["problems"]) == (0, []), document
        listed = {each["name"]: each["state"] for each in verb(guest, "list")[1]["patches"]}
        assert listed == {"lgt_payload": "replaced", "lgt_newer": "loaded"}
        if "lgt_payload" in loaded(guest):
            assert verb(guest, "unload", "lgt_payload")[0] == 0
    for name in ("lgt_newer", "lgt_payload"):
        assert verb(guest, "uninstall", name)[0] == 0
    assert verb(guest, "unload", "lgt_newer")[0] == 0
    left_clean(guest)


@pytest.mark.parametrize("model", MODELS)
def test_a_stall_is_undone_and_names_the_blocker(with_engine: Guest, model: str) -> None:
    guest = with_engine
    with dozing(guest):
        found = error(guest, "load", PAYLOAD, "--model", model, "--timeout", "1")
        assert found["kind"] == "TransitionTimeout"
        assert "undone, nothing was changed" in found["message"]
        (blocker,) = (each for each in found["blockers"] if each["comm"] == "sh")
        if model != "task":
            assert (blocker["kind"], blocker["function"]) == ("inside", "lgt_doze")
        assert "lgt_doze" in blocker["stack"]
        assert loaded(guest) == {}
        assert answer(guest) == "1"


@pytest.mark.parametrize("model", MODELS)
def test_left_waiting_and_complete_by_an_event(with_engine: Guest, model: str) -> None:
    guest = with_engine
    with dozing(guest):
        document = load(guest, model, "--timeout", "1", "--on-stall", "wait")
        assert document["state"] == "transition"
        _, blocking = verb(guest, "blockers", "lgt_payload")
        assert blocking["left"] >= 1
        assert blocking["phase"] == "applying"
        found = error(guest, "load", "/ko/lgt_foreign.ko", "--foreign")
        assert "transition of 'lgt_payload' is under way" in found["message"]
        job = guest.start([*RUNTIME, "wait", "lgt_payload"])
        wake(guest)
        assert job.wait(60).status == 0
    assert loaded(guest) == {"lgt_payload": "enabled"}
    unload(guest)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_loader_that_ends_early(with_engine: Guest, number: signal.Signals) -> None:
    guest = with_engine
    with dozing(guest):
        job = guest.start([*RUNTIME, "load", PAYLOAD, "--model", "hybrid"])
        in_transition(guest)
        job.kill(number)
        job.wait(60)
        if number == signal.SIGKILL:
            assert loaded(guest) == {"lgt_payload": "transition"}
            unload(guest)
        assert loaded(guest) == {}


@pytest.mark.parametrize(
    ("model", "stride"),
    [("hybrid", 5), *(pytest.param(each, 1, marks=pytest.mark.soak) for each in ALL)],
)
def test_killed_at_each_step(with_engine: Guest, model: str, stride: int) -> None:
    """Nothing, or the whole patch, is in force; what is left can be unloaded, and loaded again."""
    words = [PAYLOAD, model, str(stride)]
    result = run_main(with_engine, "tests.guest.killed_loader", *words, timeout=800)
    assert result.status == 0, result.stderr.decode()
    left = json.loads(result.stdout)
    assert len(left) * stride > 60
    first = left.index(["enabled"])
    assert left == [[]] * first + [["enabled"]] * (len(left) - first) and first > 0


@pytest.mark.parametrize("model", ["hybrid", "task"])
def test_the_engine_sees_cold_parts(with_engine: Guest, model: str) -> None:
    guest = with_engine
    with dozing(guest, "shiver", "lgt_shiver.cold+"):
        document = load(guest, model, "--timeout", "1", "--on-stall", "wait")
        assert document["state"] == "transition"
    assert verb(guest, "wait", "lgt_payload")[0] == 0
    unload(guest)


def test_an_unload_that_stalls_is_turned_on_again(with_engine: Guest) -> None:
    guest = with_engine
    load(guest, "hybrid")
    with dozing(guest):
        found = error(guest, "unload", "lgt_payload", "--timeout", "1")
        assert "turned on again" in found["message"]
        assert any(each["function"] == "new_doze" for each in found["blockers"])
        assert loaded(guest) == {"lgt_payload": "enabled"}
        assert answer(guest) == "2"
    unload(guest)


def test_each_core_refuses_the_functions_of_the_other(with_engine: Guest) -> None:
    guest = with_engine
    assert verb(guest, "load", "/ko/lgt_foreign.ko", "--foreign")[0] == 0
    for model in ("hybrid", "stop"):
        message = error(guest, "load", PAYLOAD, "--model", model)["message"]
        assert "is redirected by the live patch lgt_foreign" in message
    assert verb(guest, "unload", "--all")[0] == 0


def test_without_direct_calls(with_engine: Guest) -> None:
    guest = with_engine
    document = load(guest, "hybrid", "--no-direct")
    assert document["direct"] is False
    assert answer(guest) == "2"
    unload(guest)
    assert guest.get(f"{ENGINE}/options") == b""
    assert load(guest, "hybrid")["direct"] is True
    unload(guest)


def test_switched_off_later(with_engine: Guest) -> None:
    """The engine's redirections are permanent: the kernel refuses, and the new code runs on."""
    guest = with_engine
    load(guest, "hybrid")
    off = guest.shell("echo 0 > /proc/sys/kernel/ftrace_enabled")
    try:
        assert off.status != 0
        (patch,) = verb(guest, "status")[1]["patches"]
        assert not any("ftrace is switched off" in each for each in patch["warnings"])
        assert answer(guest) == "2"
    finally:
        guest.shell("echo 1 > /proc/sys/kernel/ftrace_enabled")
    assert answer(guest) == "2"
    unload(guest)


def test_for_as_long_as_a_block_lasts(with_engine: Guest) -> None:
    result = with_engine.python(FOLLOWING, PAYLOAD, f"{TARGET}/answer", timeout=60)
    assert result.text.split() == ["2", "enabled", "unloaded"], result.stderr


def test_forced(with_engine: Guest) -> None:
    """The last test: its module stays."""
    guest = with_engine
    with dozing(guest):
        arguments = ("--timeout", "1", "--on-stall", "force", FORCE_FLAG)
        document = load(guest, "hybrid", *arguments)
        assert (document["state"], document["forced"]) == ("enabled", True)
        (patch,) = verb(guest, "status")[1]["patches"]
        assert patch["forced"]
        assert any("never be removed" in each for each in patch["warnings"])
    status, document = verb(guest, "unload", "lgt_payload")
    assert status == 0, document
    (only,) = document["unloaded"]
    assert (only["state"], only["forced"]) == ("disabled", True)
    assert answer(guest) == "1"
