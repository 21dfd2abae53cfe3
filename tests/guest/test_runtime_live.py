# SPDX-License-Identifier: GPL-2.0-or-later
"""The runtime on a running kernel of the distribution: load, block, interrupt, unload.

The modules of runtime_modules/ are built by hand and not by livegraft, so that a defect of the
builder cannot hide one of the runtime. ``lgt_payload`` is a payload for vmlinux and ``lgt_target``.
"""

from __future__ import annotations

import json
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.documents import validate
from tests.releases import RELEASE

from livegraft.elf import header
from livegraft.kernel.kernel import Kernel, prepare
from livegraft.lab.boot import boot
from livegraft.lab.guest import Guest, Result
from livegraft.lab.trial import FAULT
from livegraft.run import run
from livegraft.runtime.identity import build_id

pytestmark = pytest.mark.guest

ROOT = Path(__file__).parents[2]
FIX = "a5" * 32
TARGET = "/sys/module/lgt_target/parameters"

RUNTIME = ("python3", "-m", "livegraft.runtime")


@pytest.fixture(scope="module")
def kernel() -> Kernel:
    return prepare(RELEASE)


def with_manifest(module: Path, kernel_id: str, target_id: str, release: str) -> bytes:
    """A payload's bytes with a manifest for this kernel and this build of the target."""

    def patched(name: str) -> dict[str, object]:
        return {"name": name, "sympos": 1, "state": "changed", "unit": "lgt_payload.c"}

    manifest = {
        "format": 1,
        "name": "lgt_payload",
        "kernel": {"release": release, "build_id": kernel_id, "source_version": "by hand"},
        "objects": [
            {
                "name": "vmlinux",
                "build_id": kernel_id,
                "functions": [patched("cmdline_proc_show")],
            },
            {
                "name": "lgt_target",
                "build_id": target_id,
                "functions": [patched("lgt_answer"), patched("lgt_doze")],
            },
        ],
        "fix": {"sha256": FIX},
        "proof": True,
    }
    text = module.with_suffix(".json")
    text.write_text(json.dumps(manifest))
    out = module.with_suffix(".out")
    run(["objcopy", "--add-section", f".livegraft={text}", module, out])
    return out.read_bytes()


@pytest.fixture(scope="module")
def guest(kernel: Kernel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guest]:
    folder = tmp_path_factory.mktemp("modules") / "lgt"
    shutil.copytree(Path(__file__).parent / "runtime_modules", folder)
    run(
        [
            *("make", "-C", kernel.headers, f"M={folder}", f"CC={kernel.compiler}"),
            *(f"LGT_INCLUDE={ROOT / 'kmod/include'}", f"LGT_FIX={FIX}", "modules"),
        ]
    )
    for path in folder.glob("*.ko"):
        run(["strip", "--strip-debug", path])
    note = header.parse((folder / "lgt_target.ko").read_bytes())
    target_id = build_id(bytes(note.section_data(".note.gnu.build-id") or b""))
    assert target_id is not None
    files: dict[str, bytes | Path] = {
        f"ko/{path.name}": path.read_bytes() for path in folder.glob("*.ko")
    }
    with boot(kernel.vmlinuz, kernel.modules, files=files) as guest:
        kernel_id = guest.python(
            "from livegraft.runtime.identity import kernel_build_id; print(kernel_build_id())"
        ).text
        payload = folder / "lgt_payload.ko"
        for name, ids in {
            "lgt_payload": (kernel_id, target_id),
            "other_kernel": ("00" * 20, target_id),
            "other_target": (kernel_id, "00" * 20),
        }.items():
            guest.put(f"/ko/{name}.ko", with_manifest(payload, *ids, kernel.release))
        guest.check(["insmod", "/ko/lgt_target.ko"])
        yield guest
        assert not [each for each in guest.kernel_log() if FAULT.search(each.text)]


def verb(guest: Guest, *arguments: str) -> tuple[int, dict[str, Any]]:
    """Run a verb of the runtime: its status and its document."""
    result = guest.run([*RUNTIME, *arguments, "--json"], timeout=120)
    assert result.stdout, result.stderr.decode()
    document = json.loads(result.stdout)
    validate(arguments[0], document)
    return result.status, document


def answer(guest: Guest) -> str:
    return guest.get(f"{TARGET}/answer").decode().strip()


def patched_by(guest: Guest) -> str:
    return guest.get("/proc/cmdline").decode().partition(" was here")[0]


def loaded(guest: Guest) -> dict[str, str]:
    """The patches of ``status`` and their states."""
    status, document = verb(guest, "status")
    assert status == 0
    return {each["name"]: each["state"] for each in document["patches"]}


@pytest.fixture(autouse=True)
def clean(guest: Guest) -> Iterator[None]:
    """Every test ends as it began: no patch, no rival, the old code."""
    yield
    left = loaded(guest)
    if left:
        guest.check([*RUNTIME, "unload", "--all"], timeout=120)
    assert left == {}
    assert answer(guest) == "1"
    assert not patched_by(guest).startswith("lgt_")


@contextmanager
def dozing(guest: Guest) -> Iterator[None]:
    """A task that sleeps inside lgt_doze and hears no signal, until the block is left or woken."""
    job = guest.start(["sh", "-c", f"echo 1 > {TARGET}/doze; echo awake"])
    try:
        end = time.monotonic() + 60
        while guest.shell("cat /proc/[0-9]*/stack | grep -q _doze+").status != 0:
            assert time.monotonic() < end, "nobody sleeps in lgt_doze"
            time.sleep(0.2)
        yield
    finally:
        wake(guest)
        assert job.wait(60).text == "awake"


def wake(guest: Guest) -> None:
    guest.check(["sh", "-c", f"echo 1 > {TARGET}/wake"])


def test_whole_life(guest: Guest) -> None:
    status, document = verb(guest, "load", "/ko/lgt_payload.ko")
    assert status == 0, document
    assert document["state"] == "enabled"
    assert 0 < document["transition_ms"] < 700
    assert 1 <= document["kicks"] <= 10 or document["transition_ms"] < 50
    assert document["warnings"] == []
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
    assert document["error"]["errno"] == "EBUSY"
    assert "cmdline_proc_show" in document["error"]["message"]
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
        arguments = ("load", "/ko/lgt_payload.ko", "--timeout", "1", "--keep-waiting")
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


def in_transition(guest: Guest) -> None:
    """Wait until lgt_payload's transition is under way."""
    place = "/sys/kernel/livepatch/lgt_payload/transition"
    end = time.monotonic() + 60
    while guest.shell(f"grep -q 1 {place}").status != 0:
        assert time.monotonic() < end, "the transition has not begun"
        time.sleep(0.1)


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
    for arguments in (("load", "/ko/lgt_payload.ko"), ("unload", "x"), ("unload", "--all")):
        result: Result = guest.python(code, *arguments)
        assert result.status == 1
        assert b"not root" in result.stderr
    assert guest.python(code, "status").text == "no live patch is loaded"


def test_module_loading_switched_off(guest: Guest) -> None:
    """The last test: nothing can be loaded afterwards."""
    guest.check(["sh", "-c", "echo 1 > /proc/sys/kernel/modules_disabled"])
    status, document = verb(guest, "load", "/ko/lgt_payload.ko")
    assert status == 1
    assert document["error"]["errno"] == "EPERM"
    assert "modules_disabled" in document["error"]["message"]
