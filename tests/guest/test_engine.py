# SPDX-License-Identifier: GPL-2.0-or-later
"""The engine's changes when things do not go by themselves (engine_scenarios.py says what), in
company (engine_company.py), and beside BPF programs."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.guest.bpf_program import TYPES, function_type
from tests.live import PAYLOAD, booted, left_clean, loaded, patched_by, verb
from tests.releases import RELEASE, RELEASES
from tests.resident import run_main

from livegraft import pipeline
from livegraft.kernel.kernel import Kernel, prepare
from livegraft.lab.boot import boot
from livegraft.lab.guest import BackgroundJob, Guest
from livegraft.lab.trial import FAULT
from livegraft.lab.witnesses import package_files, witnesses
from livegraft.runtime.trusting import UNSIGNED

pytestmark = [pytest.mark.guest, pytest.mark.build, pytest.mark.timeout(1800)]

HERE = Path(__file__).parent
EXT4_FIX = HERE.parent / "data/ext4-mballoc.patch"
BROKEN = "6.1.0-55-amd64"
PATCH = "/sys/kernel/livegraft/livegraft_ext4"

MODELS = ("hybrid", "stop", "task")
SCENARIOS = (
    "applying_is_reversed",
    "undoing_is_reversed",
    "those_signalled_are_called_back",
    "a_task_that_sleeps_on",
    "a_signal_ends_a_call",
    "a_signal_restarts_a_call",
    "a_signal_restarts_many_calls",
    "a_process_that_is_stopped",
    "two_patches",
    "a_patch_that_replaces",
    "ftrace_handlers",
    "redirected_by_another",
    "a_callback_that_fails",
    "ftrace_switched_off",
    "loaded_again_at_once",
    "sleepers_with_traced_returns",
)
COMPANY = (
    "a_target_that_goes_in_the_middle",
    "a_function_that_is_not_there",
    "beside_a_change_of_the_kernels_core",
    "beside_a_worker_of_vhost",
)


def log_of(guest: Guest) -> list[str]:
    return [each.text for each in guest.kernel_log()]


def faults(log: Sequence[str]) -> list[str]:
    return [text for text in log if FAULT.search(text)]


@pytest.fixture(scope="module", params=RELEASES)
def guest(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Guest]:
    kernel = prepare(str(request.param))
    files = witnesses(kernel)
    for name in ("engine_scenarios.py", "engine_company.py", "bpf_program.py"):
        files[f"/root/tests/guest/{name}"] = HERE / name
    with booted(kernel, tmp_path_factory.mktemp("modules"), files) as guest:
        for name in ("livegraft_engine", "lgc_target"):
            guest.check(["insmod", f"/ko/{name}.ko"])
        yield guest


def scenario(guest: Guest, name: str, model: str, where: str = "engine_scenarios") -> None:
    result = run_main(guest, f"tests.guest.{where}", name, model, timeout=300)
    log = log_of(guest)
    if result.status != 0:
        pytest.fail("\n".join((result.stderr.decode(), *log[-15:])), pytrace=False)
    assert faults(log) == []


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("name", SCENARIOS)
def test_scenario(name: str, model: str, guest: Guest) -> None:
    scenario(guest, name, model)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("name", COMPANY)
def test_in_company(name: str, model: str, guest: Guest) -> None:
    if "vhost" in name:
        guest.modprobe("vhost_vsock")
    scenario(guest, name, model, "engine_company")


# -- beside BPF programs ------------------------------------------------------------------------

SHOW = "cmdline_proc_show"
SHARED = f"{SHOW} is redirected by a BPF program as well"

FOLLOWING = """
from livegraft import runtime
for event in runtime.events("lgt_payload"):
    print(event.state, *(each.owner for each in event.redirections), sep=", ", flush=True)
"""


@pytest.fixture(scope="module")
def bpf(guest: Guest) -> tuple[str, ...]:
    """The command that has a BPF program on what shows /proc/cmdline; its kind is to be added."""
    number = function_type(guest.get(TYPES), SHOW)
    return ("python3", "-m", "tests.guest.bpf_program", str(number))


@contextmanager
def attached(guest: Guest, bpf: Sequence[str], kind: str) -> Iterator[str]:
    """A BPF program; the file that counts its runs."""
    job = guest.start([*bpf, kind])
    try:
        said(job, b"\n")
        enabled = guest.get("/sys/kernel/tracing/enabled_functions").decode()
        assert re.search(rf"^{SHOW} \(.*\n?\tdirect-->bpf_trampoline_", enabled, re.M)
        yield job.output().decode().strip()
    finally:
        job.kill()
        job.wait()


def said(job: BackgroundJob, words: bytes) -> None:
    """Wait until a job has printed a line that ends so."""
    end = time.monotonic() + 60
    while words not in job.output():
        assert job.running, job.wait()
        assert time.monotonic() < end, job.output()
        time.sleep(0.1)


def runs(guest: Guest, place: str) -> int:
    return int(guest.check(["grep", "run_cnt", place]).text.split()[1])


def shown_beside(guest: Guest, place: str) -> str:
    """Who /proc/cmdline is by; the program has run for that, too."""
    before = runs(guest, place)
    found = patched_by(guest)
    assert runs(guest, place) == before + 1
    return found


@pytest.mark.parametrize("way", [("native",), ("hybrid", "--no-direct")], ids=" ".join)
def test_what_shares_with_bpf(way: tuple[str, ...], guest: Guest, bpf: Sequence[str]) -> None:
    """Whichever is there first: both are in force, and who follows the patch is told."""
    with attached(guest, bpf, "fentry") as place:
        status, document = verb(guest, "load", PAYLOAD, "--model", *way)
        assert status == 0, document
        assert document["warnings"] == [UNSIGNED, SHARED]
        assert shown_beside(guest, place) == "lgt_payload"
    assert patched_by(guest) == "lgt_payload"
    follower = guest.start(["python3", "-c", FOLLOWING])
    said(follower, b"enabled\n")
    with attached(guest, bpf, "fexit") as place:
        assert shown_beside(guest, place) == "lgt_payload"
    with attached(guest, bpf, "fentry") as place:
        assert shown_beside(guest, place) == "lgt_payload"
        said(follower, b"enabled, a BPF program\n")
        (patch,) = verb(guest, "status")[1]["patches"]
        assert [each["kind"] for each in patch["redirections"]] == ["bpf"]
        assert patch["warnings"] == [SHARED]
        assert verb(guest, "unload", "lgt_payload")[0] == 0
        assert shown_beside(guest, place) != "lgt_payload"
    assert follower.wait().text.splitlines()[-1] == "unloaded"
    left_clean(guest)


def test_direct_calls_are_not_shared_with_bpf(guest: Guest, bpf: Sequence[str]) -> None:
    """Whoever is second is refused, and has changed nothing."""
    with attached(guest, bpf, "fentry") as place:
        status, document = verb(guest, "load", PAYLOAD, "--model", "hybrid")
        assert status == 1
        assert f"{SHOW} is redirected by a BPF program" in document["error"]["message"]
        assert "--no-direct" in document["error"]["remedy"]
        for model in MODELS:  # the engine, asked by itself
            raw = guest.run(["insmod", PAYLOAD, f"model={model}"])
            assert b"Device or resource busy" in raw.stderr
        assert loaded(guest) == {}
        assert shown_beside(guest, place) != "lgt_payload"
    assert verb(guest, "load", PAYLOAD, "--model", "hybrid")[0] == 0
    assert guest.run([*bpf, "fentry"]).stderr == b"EBUSY\n"
    assert patched_by(guest) == "lgt_payload"
    (patch,) = verb(guest, "status")[1]["patches"]
    assert (patch["state"], patch["direct"], patch["redirections"]) == ("enabled", True, [])
    assert verb(guest, "unload", "lgt_payload")[0] == 0
    left_clean(guest)


@pytest.mark.parametrize("model", ["hybrid", "task"])
def test_forced(model: str, guest: Guest) -> None:
    """The last of a guest: what was forced stays."""
    scenario(guest, "forced", model)


@pytest.mark.skipif(
    RELEASE != BROKEN,
    reason=f"the ext4 fix is for one kernel alone: LIVEGRAFT_TEST_RELEASES={BROKEN} runs it",
)
def test_a_target_module_that_comes_and_goes(
    engine: Callable[[Kernel], Path], tmp_path: Path
) -> None:
    """With relocations to it, which the kernel's own core on 6.1 can apply once only."""
    kernel = prepare(BROKEN)
    built = pipeline.build([EXT4_FIX], kernel, output=tmp_path / "ext4.ko").path
    files: dict[str, bytes | Path] = {
        "/ko/ext4.ko": built,
        "/ko/engine.ko": engine(kernel),
        **package_files(),
    }
    with boot(kernel.vmlinuz, kernel.modules, load=["loop"], files=files, timeout=180) as guest:
        guest.check(["insmod", "/ko/engine.ko"])
        guest.modprobe("ext4")
        guest.check(["rmmod", "ext4"])
        again = f"/lib/modules/{BROKEN}/kernel/ext4.ko"
        for model in MODELS:
            guest.check(["insmod", "/ko/ext4.ko", f"model={model}"], timeout=120)
            assert guest.get(f"{PATCH}/ext4/patched") == b"0\n"
            for _ in range(2):
                guest.check(["insmod", again], timeout=120)
                assert guest.get(f"{PATCH}/ext4/patched") == b"1\n"
                guest.check(["sh", "-ec", USE], timeout=120)
                guest.check(["rmmod", "ext4"], timeout=120)
                assert guest.get(f"{PATCH}/ext4/patched") == b"0\n"
            # It goes again while the module is there.
            guest.check(["insmod", again], timeout=120)
            guest.python(GO, model, timeout=120)
            assert guest.run(["test", "-e", PATCH]).status != 0
            guest.check(["rmmod", "ext4"], timeout=120)
        guest.check(["rmmod", "livegraft_engine"])
        assert faults(log_of(guest)) == []


USE = """
dd if=/dev/zero of=/root/image bs=1M count=0 seek=64 2> /dev/null
mkfs.ext4 -q /root/image
mkdir -p /mnt
mount -o loop -t ext4 /root/image /mnt
dd if=/dev/zero of=/mnt/one bs=1M count=1 2> /dev/null
sync
echo 3 > /proc/sys/vm/drop_caches
dd if=/dev/zero of=/mnt/other bs=1M count=1 2> /dev/null
sync
umount /mnt
"""
"""What ends in a fault without the fix."""

GO = """
import sys
from livegraft.lab.witness.driver import Patch, unload
unload(Patch("livegraft_ext4", sys.argv[1]))
"""
