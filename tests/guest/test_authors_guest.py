# SPDX-License-Identifier: GPL-2.0-or-later
"""What patch authors need, live: the examples of docs/authors.md, each with its effect and without.

All of a kernel's are loaded in one guest.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.releases import RELEASES

from livegraft import pipeline
from livegraft.errors import Exit
from livegraft.kernel.kernel import Kernel, prepare
from livegraft.lab.boot import boot
from livegraft.lab.guest import Guest
from livegraft.pipeline import Built

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.patch"))
REFUSING = ROOT / "tests/data/authors/refusing.patch"

CUBIC = "/sys/module/tcp_cubic/parameters"
FAULTS = ("WARNING:", "BUG:", "Oops", "general protection", "livepatch: failed to")

pytestmark = [pytest.mark.guest, pytest.mark.build]


@pytest.fixture(scope="module", params=RELEASES)
def kernel(request: pytest.FixtureRequest) -> Kernel:
    return prepare(str(request.param))


@pytest.fixture(scope="module")
def built(kernel: Kernel, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Built]:
    """Every example as a live patch, by its name."""
    folder = tmp_path_factory.mktemp("examples")
    return {
        fix.stem: pipeline.build([fix], kernel, output=folder / f"{fix.stem}.ko")
        for fix in [*EXAMPLES, REFUSING]
    }


@pytest.fixture(scope="module")
def guest(kernel: Kernel, built: dict[str, Built]) -> Iterator[Guest]:
    files: dict[str, bytes | Path] = {f"/ko/{name}.ko": one.path for name, one in built.items()}
    with boot(kernel.vmlinuz, kernel.modules, files=files) as guest:
        yield guest
        found = [each for each in log(guest) if any(fault in each for fault in FAULTS)]
        assert not found, found


def verb(guest: Guest, *arguments: str) -> tuple[int, Any]:
    """Run a verb of the runtime in the guest: its status and its document."""
    words = ["python3", "-m", "livegraft.runtime", *arguments, "--json"]
    result = guest.run(words, timeout=120)
    assert result.stdout, result.stderr.decode()
    return result.status, json.loads(result.stdout)


def load(guest: Guest, name: str) -> None:
    status, document = verb(guest, "load", f"/ko/{name}.ko")
    assert status == 0, document


def unload(guest: Guest, name: str) -> None:
    status, document = verb(guest, "unload", "livegraft_" + name.replace("-", "_"))
    assert status == 0, document


def log(guest: Guest) -> list[str]:
    return [each.text for each in guest.kernel_log()]


def said(guest: Guest, word: str) -> list[str]:
    """The messages with a word, each from the word on."""
    return [text[text.index(word) :] for text in log(guest) if word in text]


def text(guest: Guest, path: str) -> str:
    return guest.get(path).decode()


def redirected(guest: Guest) -> set[str]:
    """The functions that somebody redirects (flag I of ftrace)."""
    lines = text(guest, "/sys/kernel/tracing/enabled_functions").splitlines()
    return {words[0] for words in map(str.split, lines) if "I" in words}


def test_callbacks(guest: Guest) -> None:
    plain = text(guest, "/proc/loadavg")
    load(guest, "callbacks")
    assert [text(guest, "/proc/loadavg").split()[5] for _ in range(2)] == ["reads=1", "reads=2"]
    assert said(guest, "loadavg:") == ["loadavg: every task counts its reads now"]
    unload(guest, "callbacks")
    assert said(guest, "loadavg:")[1:] == [
        "loadavg: 2 reads were counted",
        "loadavg: the counter is gone",
    ]
    assert len(text(guest, "/proc/loadavg").split()) == len(plain.split()) == 5


def test_changed_data(guest: Guest) -> None:
    window = f"{CUBIC}/hystart_low_window"

    def seen() -> tuple[str, str]:
        return text(guest, "/proc/softirqs").split("\n")[1].split(":")[0].strip(), text(
            guest, window
        ).strip()

    assert seen() == ("HI", "16")
    load(guest, "data")
    assert seen() == ("HIGH", "32")
    assert redirected(guest) == set()
    unload(guest, "data")
    assert seen() == ("HI", "16")


WRITES = """
import os, sys
older, newer = int(sys.argv[1]) if len(sys.argv) > 1 else os.eventfd(0), os.eventfd(0)
def writes(fd):
    lines = open(f"/proc/self/fdinfo/{fd}").read().splitlines()
    return [line.split()[1] for line in lines if line.startswith("eventfd-writes")]
for _ in range(3):
    os.eventfd_write(newer, 1)
print(writes(newer), writes(older))
os.close(newer)
"""


def test_shadow_variables(guest: Guest) -> None:
    assert guest.python(WRITES).text == "[] []"
    load(guest, "shadow")
    assert guest.python(WRITES).text == "['3'] ['0']"
    # An object at the same address begins anew: the shadow went with the one before.
    assert guest.python(WRITES).text == "['3'] ['0']"
    unload(guest, "shadow")
    assert guest.python(WRITES).text == "[] []"


def test_system_states(guest: Guest) -> None:
    delta = f"{CUBIC}/hystart_ack_delta_us"

    def seen() -> int:
        return int(text(guest, delta))

    assert seen() == 2000
    load(guest, "state")
    assert seen() == 3000
    load(guest, "state-2")
    assert seen() == 4000
    unload(guest, "state-2")
    assert seen() == 3000
    unload(guest, "state")
    assert seen() == 2000


def test_a_state_of_an_earlier_version_is_refused(guest: Guest) -> None:
    load(guest, "state-2")
    status, document = verb(guest, "load", "/ko/state.ko")
    assert (status, document["error"]["kind"]) == (Exit.FAILED, "KernelRefused")
    assert "same system state in a later version" in document["error"]["message"]
    assert int(text(guest, f"{CUBIC}/hystart_ack_delta_us")) == 4000
    unload(guest, "state-2")
    assert int(text(guest, f"{CUBIC}/hystart_ack_delta_us")) == 2000


def test_marks(guest: Guest) -> None:
    plain = text(guest, "/proc/consoles")
    load(guest, "marks")
    assert text(guest, "/proc/consoles").split()[0] == plain.split()[0].replace("ttyS", "ttyS-")
    assert redirected(guest) == {"show_console_dev", "c_stop"}
    assert said(guest, "consoles: somebody") == []
    unload(guest, "marks")
    assert text(guest, "/proc/consoles") == plain


def test_a_callback_that_refuses_leaves_nothing(guest: Guest) -> None:
    guest.check(["sh", "-c", "echo refuse > /proc/sys/kernel/hostname"])
    status, document = verb(guest, "load", "/ko/refusing.ko")
    assert (status, document["error"]["errno"]) == (Exit.FAILED, "EPERM")
    assert "its own pre_patch callback for vmlinux has refused it" in document["error"]["message"]
    assert document["error"]["remedy"]
    # The first file's callback had run, and was undone; the second one's had not.
    assert said(guest, "refusing:") == ["refusing: first begun", "refusing: first undone"]
    assert redirected(guest) == set()
    assert not text(guest, "/proc/loadavg").startswith("patched")
    assert b"livegraft" not in guest.get("/proc/modules")


def test_callbacks_of_two_files_are_undone_backwards(guest: Guest) -> None:
    guest.check(["sh", "-c", "echo willing > /proc/sys/kernel/hostname"])
    before = len(said(guest, "refusing:"))
    load(guest, "refusing")
    assert text(guest, "/proc/loadavg").startswith("patched")
    unload(guest, "refusing")
    assert said(guest, "refusing:")[before:] == [
        "refusing: first begun",
        "refusing: second begun",
        "refusing: second undone",
        "refusing: first undone",
    ]


def test_what_was_built_says_what_it_does(built: dict[str, Built]) -> None:
    """``inspect`` of the examples: callbacks, states and decisions are in the module."""
    documents: dict[str, Any] = {name: one.inspection.as_json() for name, one in built.items()}
    (object,) = documents["callbacks"]["objects"]
    kinds = ["pre_patch", "post_patch", "pre_unpatch", "post_unpatch"]
    assert [(each["kind"], each["name"]) for each in object["callbacks"]] == [
        (kind, f"loadavg_{kind}") for kind in kinds
    ]
    assert documents["state-2"]["states"] == [{"id": 0x4C470002, "version": 2}]
    assert documents["marks"]["decisions"] == {
        "forced": ["c_stop"],
        "ignored_functions": ["c_next"],
        "ignored_sections": [],
        "accepted_layouts": [],
    }
    assert any("c_next" in warning for warning in documents["marks"]["warnings"])
    assert all(documents[name]["states"] == [] for name in ("callbacks", "data", "marks"))
