# SPDX-License-Identifier: GPL-2.0-or-later
"""The runtime on a running kernel of the distribution: load, block, interrupt, unload.

Here the kernel's own core has all patches; what is about models and about others who redirect
functions is in test_runtime_models.py.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator

import pytest
from tests.live import (
    FIX,
    RUNTIME,
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
from tests.releases import RELEASE

from livegraft.kernel.kernel import Kernel, prepare
from livegraft.lab.guest import Guest, Result
from livegraft.runtime.checking import Health
from livegraft.runtime.trusting import UNSIGNED

pytestmark = pytest.mark.guest


@pytest.fixture(scope="module")
def kernel() -> Kernel:
    return prepare(RELEASE)


@pytest.fixture(scope="module")
def guest(kernel: Kernel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guest]:
    with booted(kernel, tmp_path_factory.mktemp("modules")) as guest:
        yield guest


@pytest.fixture(autouse=True)
def clean(guest: Guest) -> Iterator[None]:
    yield
    left_clean(guest)


def test_whole_life(guest: Guest) -> None:
    status, document = verb(guest, "load", "/ko/lgt_payload.ko")
    assert status == 0, document
    assert document["state"] == "enabled"
    assert 0 < document["transition_ms"] < 700
    assert 1 <= document["kicks"] <= 10 or document["transition_ms"] < 50
    assert document["warnings"] == [UNSIGNED]
    assert [each["name"] for each in document["objects"]] == ["vmlinux", "lgt_target"]
    assert answer(guest) == "2"
    assert patched_by(guest) == "lgt_payload"

    status, document = verb(guest, "status", "lgt_payload")
    (patch,) = document["patches"]
    assert (patch["state"], patch["model"], patch["foreign"]) == ("enabled", "native", False)
    assert patch["fix_sha256"] == FIX
    assert patch["since"]

    status, document = verb(guest, "load", "/ko/lgt_payload.ko")
    assert status == 1
    assert "loaded already" in document["error"]["message"]

    status, document = verb(guest, "wait", "lgt_payload")
    assert (status, document["state"]) == (0, "enabled")

    status, document = verb(guest, "unload", "lgt_payload")
    assert status == 0, document
    assert document["unloaded"][0]["state"] == "unloaded"
    assert document["unloaded"][0]["transition_ms"] > 0
    assert guest.run(["test", "-e", "/sys/module/lgt_payload"]).status == 1


def test_kicks_hasten_it(guest: Guest) -> None:
    """The negative control: without kicks the core takes its second."""
    _, fast = verb(guest, "load", "/ko/lgt_payload.ko")
    verb(guest, "unload", "lgt_payload")
    _, slow = verb(guest, "load", "/ko/lgt_payload.ko", "--no-kicks")
    assert slow["kicks"] == 0
    assert slow["transition_ms"] > 3 * fast["transition_ms"], (slow, fast)
    verb(guest, "unload", "lgt_payload")


@pytest.mark.parametrize(
    ("name", "said"),
    [("other_kernel", "another build, also named"), ("other_target", "module lgt_target")],
)
def test_other_build_is_refused_before_the_kernel_sees_it(
    guest: Guest, name: str, said: str
) -> None:
    before = len(guest.kernel_log())
    status, document = verb(guest, "load", f"/ko/{name}.ko")
    assert status == 4
    assert document["error"]["kind"] == "IdentityMismatch"
    assert said in document["error"]["message"]
    said_since = [message.text for message in guest.kernel_log()[before:]]
    assert not [text for text in said_since if "livepatch" in text or "lgt_" in text]


@pytest.mark.parametrize("model", ["hybrid", "stop", "task"])
def test_models_without_an_engine(guest: Guest, model: str) -> None:
    status, document = verb(guest, "load", "/ko/lgt_payload.ko", "--model", model)
    assert status == 1
    assert "engine" in document["error"]["message"]
    # The payload itself answers the same, whoever asks it.
    raw = guest.run(["insmod", "/ko/lgt_payload.ko", f"model={model}"])
    assert raw.status != 0
    assert b"No such device" in raw.stderr
    assert patched_by(guest) != "lgt_payload"


def test_unknown_model_of_the_payload(guest: Guest) -> None:
    raw = guest.run(["insmod", "/ko/lgt_payload.ko", "model=magic"])
    assert b"Invalid argument" in raw.stderr


def test_foreign(guest: Guest) -> None:
    status, document = verb(guest, "load", "/ko/lgt_foreign.ko")
    assert (status, "--foreign" in document["error"]["remedy"]) == (1, True)
    status, document = verb(guest, "load", "/ko/lgt_foreign.ko", "--foreign")
    assert status == 0, document
    assert document["foreign"]
    assert document["kicks"] == 0
    _, document = verb(guest, "status")
    assert document["patches"][0]["foreign"]
    # One of ours on top of it, and both away again: the newest first.
    assert verb(guest, "load", "/ko/lgt_payload.ko")[0] == 0
    assert list(loaded(guest)) == ["lgt_payload", "lgt_foreign"]
    assert patched_by(guest) == "lgt_payload"
    _, document = verb(guest, "unload", "--all")
    assert [each["name"] for each in document["unloaded"]] == ["lgt_payload", "lgt_foreign"]


def test_what_monitoring_sees(guest: Guest) -> None:
    """A foreign patch, and on top of it one of ours whose transition does not end."""
    status, document = verb(guest, "status", "--check")
    assert (status, document["check"]["line"][:14]) == (Health.WELL, "LIVEGRAFT OK -")
    guest.check(["insmod", "/ko/lgt_foreign.ko"])
    verb(guest, "wait", "lgt_foreign", "--timeout", "100")
    status, document = verb(guest, "status", "--check")
    assert (status, document["check"]["problems"][0]["patch"]) == (Health.FOREIGN, "lgt_foreign")
    causes = {each["letter"]: each["modules"] for each in document["taints"]}
    assert causes["K"] == ["lgt_foreign"]
    with dozing(guest):
        late = ("--timeout", "0.5", "--on-stall", "wait")
        status, document = verb(guest, "load", "/ko/lgt_payload.ko", *late)
        assert (status, document["state"]) == (0, "transition")
        assert verb(guest, "status", "--check")[0] == Health.UNKEPT  # it is not late yet
        line = guest.run([*RUNTIME, "status", "--check", "--stalled-after", "0"])
        assert line.status == Health.STALLED
        assert line.text.startswith("LIVEGRAFT CRITICAL - lgt_payload is stalled in transition")
        assert line.text.strip().endswith(" stalled=1 missing=0 unkept=1 foreign=1 switched_off=0")
        assert "\n" not in line.text.strip()
        guest.check([*RUNTIME, "metrics", "-o", "/root/lg.prom", "--stalled-after", "0"])
        found = guest.get("/root/lg.prom").decode().splitlines()
        assert 'livegraft_patch_state{patch="lgt_payload",state="transition"} 1' in found
        assert 'livegraft_problems{kind="stalled"} 1' in found
        assert 'livegraft_problems{kind="foreign"} 1' in found
        (left,) = [each for each in found if 'patch="lgt_payload",side="left"' in each]
        assert int(left.split()[1]) >= 1
        wake(guest)
        assert verb(guest, "wait", "lgt_payload", "--timeout", "100")[0] == 0
    assert verb(guest, "status", "--check", "--stalled-after", "0")[0] == Health.UNKEPT
    assert verb(guest, "unload", "--all")[0] == 0


TAKE = """
import os, socket, sys
os.makedirs("/run/systemd/journal", exist_ok=True)
with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
    server.bind("/run/systemd/journal/socket")
    print("ready", flush=True)
    for _ in range(3):
        sys.stdout.buffer.write(server.recv(65536) + b"\\n")
os.unlink("/run/systemd/journal/socket")
"""


def test_each_load_and_unload_leaves_a_record(guest: Guest) -> None:
    job = guest.start(["python3", "-c", TAKE])
    while not job.output():
        assert job.running
        time.sleep(0.1)
    assert verb(guest, "load", "/ko/lgt_payload.ko")[0] == 0
    assert verb(guest, "load", "/ko/other_kernel.ko")[0] == 4
    assert verb(guest, "unload", "lgt_payload")[0] == 0
    records = [
        dict(line.partition("=")[::2] for line in record.splitlines())
        for record in job.wait(60).text.partition("\n")[2].split("\n\n")
    ]
    told = [
        (each["LIVEGRAFT_OPERATION"], each["LIVEGRAFT_RESULT"], each.get("LIVEGRAFT_STATE"))
        for each in records
    ]
    assert told == [
        ("load", "done", "enabled"),
        ("load", "refused", None),
        ("unload", "done", "unloaded"),
    ]
    release = guest.run(["uname", "-r"]).text
    for each in records:
        assert each["LIVEGRAFT_FIX_SHA256"] == FIX
        assert each["LIVEGRAFT_KERNEL_RELEASE"] == release
        assert (each["LIVEGRAFT_UID"], each["LIVEGRAFT_NAME"]) == ("0", "lgt_payload")
    build_id = verb(guest, "status")[1]["kernel"]["build_id"]
    assert build_id == records[0]["LIVEGRAFT_KERNEL_BUILD_ID"]


def test_truncated(guest: Guest) -> None:
    guest.check(["sh", "-c", "head -c 5000 /ko/lgt_payload.ko > /ko/half.ko"])
    status, document = verb(guest, "load", "/ko/half.ko")
    assert status == 1
    assert "truncated" in document["error"]["message"]


def test_unload_what_is_no_live_patch(guest: Guest) -> None:
    status, document = verb(guest, "unload", "lgt_target")
    assert (status, "not a live patch" in document["error"]["message"]) == (1, True)
    status, document = verb(guest, "unload", "missing")
    assert (status, "no such live patch" in document["error"]["message"]) == (1, True)


def test_function_that_another_redirects(guest: Guest) -> None:
    guest.check(["insmod", "/ko/lgt_rival.ko"])
    try:
        status, document = verb(guest, "load", "/ko/lgt_payload.ko")
    finally:
        guest.check(["rmmod", "lgt_rival"])
    assert status == 1
    assert document["error"]["kind"] == "PatchError"
    message = document["error"]["message"]
    assert "cmdline_proc_show is redirected by a kprobe with a post handler" in message
    assert guest.run(["test", "-e", "/sys/module/lgt_payload"]).status == 1


def test_timeout_is_undone_and_names_the_blocker(guest: Guest) -> None:
    with dozing(guest):
        status, document = verb(guest, "load", "/ko/lgt_payload.ko", "--timeout", "2")
        assert status == 1
        error = document["error"]
        assert error["kind"] == "TransitionTimeout"
        assert "undone" in error["message"]
        (blocker,) = (each for each in error["blockers"] if each["function"])
        assert (blocker["comm"], blocker["function"]) == ("sh", "lgt_doze")
        assert "doze_set" in blocker["stack"]
        assert loaded(guest) == {}
        assert answer(guest) == "1"


def test_left_waiting(guest: Guest) -> None:
    with dozing(guest):
        arguments = ("load", "/ko/lgt_payload.ko", "--timeout", "1", "--on-stall", "wait")
        status, document = verb(guest, *arguments)
        assert (status, document["state"]) == (0, "transition")
        assert any(each["function"] == "lgt_doze" for each in document["blockers"])
        _, document = verb(guest, "status")
        assert document["patches"][0]["direction"] == "patching"
        # One transition at a time.
        status, document = verb(guest, "load", "/ko/lgt_foreign.ko", "--foreign")
        assert (status, "lgt_payload" in document["error"]["message"]) == (1, True)
        status, document = verb(guest, "wait", "lgt_payload", "--timeout", "0.5")
        assert (status, document["error"]["kind"]) == (1, "TransitionTimeout")
        wake(guest)
        status, document = verb(guest, "wait", "lgt_payload", "--timeout", "100")
        assert (status, document["state"]) == (0, "enabled")
    assert verb(guest, "unload", "lgt_payload")[0] == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_interrupted_load_is_undone(guest: Guest, number: signal.Signals) -> None:
    with dozing(guest):
        job = guest.start([*RUNTIME, "load", "/ko/lgt_payload.ko"])
        in_transition(guest)
        job.kill(number)
        result = job.wait(60)
        assert result.status == 1, result
        assert b"interrupted" in result.stderr
        assert loaded(guest) == {}


def test_unload_that_reverses_a_load(guest: Guest) -> None:
    with dozing(guest):
        job = guest.start([*RUNTIME, "load", "/ko/lgt_payload.ko"])
        in_transition(guest)
        status, document = verb(guest, "unload", "lgt_payload")
        assert status == 0, document
        result = job.wait(60)
        assert result.status == 1
        assert b"somebody else" in result.stderr
        assert loaded(guest) == {}


def test_late_or_interrupted_unload_is_turned_on_again(guest: Guest) -> None:
    assert verb(guest, "load", "/ko/lgt_payload.ko")[0] == 0
    with dozing(guest):
        status, document = verb(guest, "unload", "lgt_payload", "--timeout", "1")
        assert (status, document["error"]["kind"]) == (1, "TransitionTimeout")
        assert "turned on again" in document["error"]["message"]
        assert any(each["function"] == "new_doze" for each in document["error"]["blockers"])
        assert loaded(guest) == {"lgt_payload": "enabled"}

        job = guest.start([*RUNTIME, "unload", "lgt_payload"])
        in_transition(guest)
        job.kill(signal.SIGTERM)
        assert job.wait(60).status == 1
        assert loaded(guest) == {"lgt_payload": "enabled"}
        assert answer(guest) == "2"
    assert verb(guest, "unload", "lgt_payload")[0] == 0


def test_disabled_by_hand(guest: Guest) -> None:
    assert verb(guest, "load", "/ko/lgt_payload.ko")[0] == 0
    guest.check(["sh", "-c", "echo 0 > /sys/kernel/livepatch/lgt_payload/enabled"])
    end = time.monotonic() + 20
    while loaded(guest) != {"lgt_payload": "disabled"}:
        assert time.monotonic() < end
    status, document = verb(guest, "load", "/ko/lgt_payload.ko")
    assert (status, "disabled live patch" in document["error"]["message"]) == (1, True)
    assert verb(guest, "unload", "lgt_payload")[0] == 0


def test_target_that_comes_later(guest: Guest) -> None:
    guest.check(["rmmod", "lgt_target"])
    try:
        status, document = verb(guest, "load", "/ko/lgt_payload.ko")
        assert status == 0, document
        assert document["absent"] == ["lgt_target"]
        assert [each["patched"] for each in document["objects"]] == [True, False]
    finally:
        guest.check(["insmod", "/ko/lgt_target.ko"])
    assert answer(guest) == "2"
    assert verb(guest, "unload", "lgt_payload")[0] == 0


def test_not_root(guest: Guest) -> None:
    code = (
        "import os, sys; from livegraft.runtime.__main__ import main; "
        "os.setuid(65534); sys.exit(main(sys.argv[1:]))"
    )
    guest.check(["mkdir", "-p", "/var/lib"])
    status, document = verb(guest, "install", "/ko/lgt_payload.ko")
    assert status == 0, document
    for arguments, said in (
        (("load", "/ko/lgt_payload.ko"), b"not root"),
        (("unload", "x"), b"not root"),
        (("unload", "--all"), b"not root"),
        (("install", "/ko/lgt_payload.ko"), b"run as root"),
        (("uninstall", "lgt_payload"), b"run as root"),
        (("boot",), b"run as root"),
    ):
        result: Result = guest.python(code, *arguments)
        assert result.status == 1, arguments
        assert said in result.stderr, arguments
    assert verb(guest, "uninstall", "lgt_payload")[0] == 0
    assert guest.python(code, "status").text.splitlines()[0] == "no live patch is loaded"


def test_module_loading_switched_off(guest: Guest) -> None:
    """The last test: nothing can be loaded afterwards."""
    guest.check(["sh", "-c", "echo 1 > /proc/sys/kernel/modules_disabled"])
    status, document = verb(guest, "load", "/ko/lgt_payload.ko")
    assert status == 1
    assert "modules_disabled" in document["error"]["message"]
