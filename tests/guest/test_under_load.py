# SPDX-License-Identifier: GPL-2.0-or-later
"""A live patch comes and goes while several processes call what it changes.

On 6.1 with two processors, with the kernel's own choice of preemption and with ``preempt=full``. On
6.12 with one processor, with ``preempt=full`` and with call depth tracking, which counts every call
and return of the payload (``retbleed=stuff`` on a processor that needs it).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.releases import RELEASES

from livegraft import pipeline
from livegraft.kernel.kernel import Kernel, prepare
from livegraft.lab.boot import boot
from livegraft.lab.guest import Guest
from livegraft.lab.trial import FAULT

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT / "demo/sample.patch"
UPTIME = ROOT / "tests/data/endbr.patch"
PATH = "/root/load.ko"

pytestmark = [pytest.mark.guest, pytest.mark.build, pytest.mark.soak, pytest.mark.timeout(3600)]


CYCLES = int(os.environ.get("LIVEGRAFT_TEST_CYCLES", "3"))
"""How often the patch comes and goes. With tasks that never wait, the kernel's own waits for
RCU tasks take seconds in an emulated guest: a long run takes minutes."""


@dataclass(frozen=True)
class Way:
    """How a kernel is run.

    Args:
        series: for the first kernel under test whose release begins so.
        append: to the kernel's command line.
        cpu: QEMU's model of the processor.
        cpus: 6.12 rewrites so much code for each transition that emulated processors, which have to
            tell each other every time, take minutes, or see it too late.
    """

    series: str
    append: str = ""
    cpu: str = "max"
    cpus: int = 2


WAYS = {
    "6.1": Way("6.1."),
    "6.1-preempt": Way("6.1.", "preempt=full"),
    "6.12-preempt": Way("6.12.", "preempt=full", cpus=1),
    "6.12-call-depth": Way("6.12.", "retbleed=stuff", "Skylake-Client", 1),
}

CALLER = b"""\
import sys
place, expected = sys.argv[1:]
while True:
    for _ in range(200):
        with open(place) as file:
            text = file.read()
        if expected not in text or not text.endswith("\\n"):
            sys.exit(f"{place} holds {text!r}")
    print(".", end="", flush=True)
"""
"""Calls a patched function all the time; ends only if it returns nonsense."""

REPEAT = b"""\
import json, sys
from pathlib import Path
from livegraft import runtime
applied, undone = [], []
for _ in range(int(sys.argv[2])):
    loaded = runtime.load(Path(sys.argv[1]), timeout=300)
    assert "livegraft.sample" in Path("/proc/cmdline").read_text()
    assert len(Path("/proc/uptime").read_text().split()) == 2
    applied.append(loaded.transition_ms)
    undone.append(runtime.unload(loaded.name, timeout=300).transition_ms)
    assert "livegraft.sample" not in Path("/proc/cmdline").read_text()
print(json.dumps([applied, undone]))
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The patch of two functions for each kernel, made when it is first needed."""
    return {}


def module(kernel: Kernel, built: dict[str, bytes], folder: Path) -> bytes:
    if kernel.release not in built:
        output = folder / "load.ko"
        pipeline.build([SAMPLE, UPTIME], kernel, output=output)
        built[kernel.release] = output.read_bytes()
    return built[kernel.release]


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> Way:
    return WAYS[request.param]


@pytest.fixture
def guest(way: Way, built: dict[str, bytes], tmp_path: Path) -> Iterator[Guest]:
    release = next((each for each in RELEASES if each.startswith(way.series)), None)
    if release is None:
        pytest.skip(f"LIVEGRAFT_TEST_RELEASES names no kernel {way.series}*")
    kernel = prepare(release)
    files: dict[str, bytes | Path] = {
        PATH: module(kernel, built, tmp_path),
        "/root/caller.py": CALLER,
        "/root/cycles.py": REPEAT,
    }
    with boot(
        kernel.vmlinuz,
        kernel.modules,
        files=files,
        cmdline=way.append,
        cpu=way.cpu,
        cpus=way.cpus,
        timeout=180,
    ) as guest:
        yield guest


def test_it_comes_and_goes_while_it_is_called(way: Way, guest: Guest) -> None:
    said = guest.get("/proc/cmdline").decode()
    assert way.append in said
    if "retbleed=stuff" in way.append:
        state = guest.get("/sys/devices/system/cpu/vulnerabilities/retbleed")
        assert state == b"Mitigation: Stuffing\n"
    places = {"/proc/cmdline": "console=ttyS0", "/proc/uptime": "."}
    callers = [
        guest.start(["python3", "/root/caller.py", place, expected])
        for place, expected in (*places.items(), *places.items())
    ]
    busy = guest.start(["sh", "-c", "while :; do :; done"])
    try:
        result = guest.check(
            ["python3", "/root/cycles.py", PATH, str(CYCLES)], timeout=120 + 150 * CYCLES
        )
    finally:
        still = [each.running for each in callers]
        calls = [len(each.output()) for each in callers]
        for each in (*callers, busy):
            each.kill()
    assert all(still), [each.output() for each in callers]
    assert min(calls) > 0, calls
    applied, undone = json.loads(result.stdout)
    assert len(applied) == len(undone) == CYCLES
    log = [each.text for each in guest.kernel_log()]
    assert not [text for text in log if FAULT.search(text)]
    assert sum("': patching complete" in text for text in log) == CYCLES
    assert sum("': unpatching complete" in text for text in log) == CYCLES
    print(way, "ms:", applied, undone)
