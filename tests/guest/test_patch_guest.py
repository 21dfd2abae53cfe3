# SPDX-License-Identifier: GPL-2.0-or-later
"""Live patches as ``build`` makes them, on a running kernel: the ext4 fix and the sample fix.

What the runtime does with modules made by hand is in test_runtime_live.py, and relocations of every
kind are in test_module_live.py.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.live import RUNTIME, verb
from tests.releases import RELEASE

from livegraft import pipeline
from livegraft.elf import header
from livegraft.errors import Exit
from livegraft.kernel.kernel import Kernel, prepare
from livegraft.lab.boot import boot
from livegraft.lab.guest import Guest

BROKEN = "6.1.0-55-amd64"
ROOT = Path(__file__).parents[2]
EXT4_FIX = ROOT / "tests/data/ext4-mballoc.patch"
SAMPLE = ROOT / "demo/sample.patch"
REPRODUCE = ROOT / "demo/reproduce-mballoc.sh"

EXT4_FUNCTIONS = {"ext4_mb_init_group", "ext4_mb_load_buddy_gfp"}
MARK = b"livegraft.sample=1"
OTHER_BUILD = "0123456789abcdef0123456789abcdef01234567"


pytestmark = [
    pytest.mark.guest,
    pytest.mark.build,
    pytest.mark.skipif(
        RELEASE != BROKEN,
        reason=f"the ext4 fix is for one kernel alone: LIVEGRAFT_TEST_RELEASES={BROKEN} runs it",
    ),
]


@pytest.fixture(scope="module")
def kernel() -> Kernel:
    return prepare(RELEASE)


@pytest.fixture(scope="module")
def ext4(kernel: Kernel, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The ext4 fix as a live patch."""
    output = tmp_path_factory.mktemp("ext4") / "ext4.ko"
    return pipeline.build([EXT4_FIX], kernel, output=output).path.read_bytes()


@pytest.fixture(scope="module")
def sample(kernel: Kernel, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The sample fix as a live patch."""
    output = tmp_path_factory.mktemp("sample") / "sample.ko"
    return pipeline.build([SAMPLE], kernel, output=output).path.read_bytes()


@pytest.fixture(scope="module")
def guest(kernel: Kernel, ext4: bytes, sample: bytes) -> Iterator[Guest]:
    """One guest for all of this file; ext4 is not loaded at first."""
    files: dict[str, bytes | Path] = {
        "/ko/ext4.ko": ext4,
        "/ko/sample.ko": sample,
        "/root/reproduce": REPRODUCE,
    }
    with boot(kernel.vmlinuz, kernel.modules, load=["loop"], files=files) as guest:
        yield guest
        assert not re.search(
            "WARNING:|BUG:|Oops|general protection", "\n".join(log_since(guest, 0))
        )


@pytest.fixture(autouse=True)
def clean(request: pytest.FixtureRequest) -> Iterator[None]:
    """Every test in the shared guest ends as it began."""
    yield
    if "guest" in request.fixturenames:
        guest: Guest = request.getfixturevalue("guest")
        left = names(guest)
        if left:
            guest.check([*RUNTIME, "unload", "--all"], timeout=120)
        assert left == []
        assert redirected(guest) == set()


def names(guest: Guest) -> list[str]:
    """The patches that are loaded."""
    return [each["name"] for each in verb(guest, "status")[1]["patches"]]


def redirected(guest: Guest) -> set[str]:
    """The functions that somebody redirects (flag I of ftrace)."""
    lines = guest.get("/sys/kernel/tracing/enabled_functions").decode().splitlines()
    return {words[0] for words in map(str.split, lines) if "I" in words}


def last_record(guest: Guest) -> int:
    return guest.kernel_log()[-1].sequence


def log_since(guest: Guest, record: int) -> list[str]:
    return [each.text for each in guest.kernel_log() if each.sequence > record]


@contextmanager
def unnoticed(guest: Guest) -> Iterator[None]:
    """The kernel is not asked for anything: its log says nothing, and nothing is loaded."""
    before = last_record(guest)
    yield
    said = "\n".join(log_since(guest, before))
    assert "livepatch" not in said and "livegraft" not in said, said
    assert b"livegraft" not in guest.get("/proc/modules")


# -- the fix works --------------------------------------------------------------------------------


def test_the_module_that_comes_after_its_patch_is_patched(guest: Guest) -> None:
    assert b"ext4 " not in guest.get("/proc/modules"), "this has to be the first test"
    status, document = verb(guest, "load", "/ko/ext4.ko")
    assert status == 0, document
    assert (document["state"], document["absent"]) == ("enabled", ["ext4"])
    assert redirected(guest) == set()
    # 6.1 cannot relocate to a module twice: it is said beforehand.
    assert any("ext4" in warning for warning in document["warnings"])
    guest.modprobe("ext4")
    assert redirected(guest) == EXT4_FUNCTIONS
    _, document = verb(guest, "status", document["name"])
    (patched,) = document["patches"][0]["objects"]
    assert (patched["name"], patched["patched"]) == ("ext4", True)
    # The bug is gone: see test_lab_reproduce.py for what happens without the patch.
    guest.check(["/root/reproduce", "setup"])
    done = guest.run(["/root/reproduce", "trigger"], timeout=60)
    assert done.status == 0, done.text
    assert guest.run(["/root/reproduce", "check"], timeout=60).status == 0
    guest.check(["umount", "/tmp/mballoc/mount"])
    assert verb(guest, "unload", "--all")[0] == 0


def test_two_patches_and_both_away(guest: Guest) -> None:
    guest.modprobe("ext4")
    assert MARK not in guest.get("/proc/cmdline")
    for name in ("sample", "ext4"):
        assert verb(guest, "load", f"/ko/{name}.ko")[0] == 0
    assert redirected(guest) == {*EXT4_FUNCTIONS, "cmdline_proc_show"}
    assert MARK in guest.get("/proc/cmdline")
    assert names(guest) == ["livegraft_ext4", "livegraft_sample"]
    # What is loaded already is not loaded again, and stays as it is.
    status, document = verb(guest, "load", "/ko/sample.ko")
    assert (status, "loaded already" in document["error"]["message"]) == (1, True)
    assert MARK in guest.get("/proc/cmdline")
    status, document = verb(guest, "unload", "--all")
    assert status == 0
    assert [each["name"] for each in document["unloaded"]] == ["livegraft_ext4", "livegraft_sample"]
    assert MARK not in guest.get("/proc/cmdline")


# -- what is refused ------------------------------------------------------------------------------


def build_ids(module: bytes) -> dict[str, str]:
    """The build IDs in a module's manifest, by object."""
    manifest = json.loads(bytes(header.parse(module).section_data(".livegraft") or b""))
    objects = {each["name"]: each["build_id"] for each in manifest["objects"]}
    return {"vmlinux": manifest["kernel"]["build_id"]} | objects


@pytest.mark.parametrize(
    ("object", "said"), [("vmlinux", "another build, also named"), ("ext4", "module ext4")]
)
def test_another_build_of_the_same_name_is_refused_unseen(
    object: str, said: str, guest: Guest, ext4: bytes
) -> None:
    """The negative control of identity: release and everything else is the same."""
    guest.modprobe("ext4")
    own = build_ids(ext4)[object].encode()
    assert ext4.count(own) == 1
    guest.put("/ko/other.ko", ext4.replace(own, OTHER_BUILD[: len(own)].encode()))
    with unnoticed(guest):
        status, document = verb(guest, "load", "/ko/other.ko")
    assert (status, document["error"]["kind"]) == (Exit.REFUSED, "IdentityMismatch")
    assert said in document["error"]["message"]
    assert document["error"]["remedy"]


@pytest.mark.parametrize("model", ["hybrid", "stop", "task"])
def test_a_model_without_its_engine_changes_nothing(model: str, guest: Guest) -> None:
    guest.modprobe("ext4")
    before = last_record(guest)
    done = guest.run(["insmod", "/ko/ext4.ko", f"model={model}"])
    assert done.status != 0
    assert b"No such device" in done.stderr
    assert redirected(guest) == set()
    assert not [text for text in log_since(guest, before) if "enabling patch" in text]
    assert b"livegraft" not in guest.get("/proc/modules")


def test_foreign(guest: Guest, sample: bytes) -> None:
    """The same code without a manifest is somebody else's."""
    assert sample.count(b".livegraft\0") == 1
    guest.put("/ko/foreign.ko", sample.replace(b".livegraft\0", b".livegrafX\0"))
    with unnoticed(guest):
        status, document = verb(guest, "load", "/ko/foreign.ko")
    assert (status, "--foreign" in document["error"]["remedy"]) == (Exit.FAILED, True)
    assert verb(guest, "load", "/ko/foreign.ko", "--foreign")[0] == 0
    assert MARK in guest.get("/proc/cmdline")
    assert verb(guest, "unload", "livegraft_sample")[0] == 0


def tampered(sample: bytes, what: str) -> bytes:
    """The sample's module with one thing changed, of the same length."""
    symbol = b".klp.sym.vmlinux.saved_command_line,1"
    old, new = {
        "symbol": (symbol, symbol.replace(b"_line", b"_lime")),  # which no kernel has
        "position": (symbol, symbol.replace(b",1", b",9")),
        "table": (b"\0cmdline_proc_show\0", b"\0cmdline_proc_shaw\0"),
        "function": (b"cmdline_proc_show", b"cmdline_proc_shaw"),  # in the manifest as well
        "vermagic": (b"vermagic=6.1.", b"vermagic=6.0."),
        "name": (b"\0name=livegraft_sample\0", b"\0name=livegraft_sampel\0"),
    }[what]
    assert old in sample
    return sample.replace(old, new)


@pytest.mark.parametrize(
    ("what", "said"),
    [
        (
            "symbol",
            "no symbol saved_command_lime at position 1|symbol 'saved_command_lime' not found",
        ),
        ("position", "no symbol saved_command_line at position 9|symbol position 9 for symbol"),
        ("table", "its manifest and its tables differ in vmlinux:cmdline_proc_shaw"),
        ("function", "symbol 'cmdline_proc_shaw' not found"),
        ("vermagic", "was built for kernel 6.0."),
        ("name", "its manifest is that of 'livegraft_sample'"),
    ],
)
def test_a_tampered_module_leaves_nothing(
    what: str, said: str, guest: Guest, sample: bytes
) -> None:
    """Whether the runtime sees it or the kernel: a clear error, and nothing is half applied."""
    guest.put("/ko/tampered.ko", tampered(sample, what))
    status, document = verb(guest, "load", "/ko/tampered.ko")
    assert status in (Exit.FAILED, Exit.REFUSED)
    error = document["error"]
    assert error["object"] and error["remedy"]
    assert re.search(said, error["message"])
    assert names(guest) == []
    assert redirected(guest) == set()
    assert b"livegraft" not in guest.get("/proc/modules")
    assert MARK not in guest.get("/proc/cmdline")


# -- guests that are lost -------------------------------------------------------------------------


def attempt(patch: Path, script: Path) -> tuple[int, Any]:
    """``livegraft try``: its exit code and its document."""
    words = ["try", str(patch), "-k", RELEASE, "--run", str(script), "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "livegraft.cli.main", *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    return done.returncode, json.loads(done.stdout)


def test_a_guest_that_panics(sample: bytes, tmp_path: Path) -> None:
    patch, script = tmp_path / "sample.ko", tmp_path / "script"
    patch.write_bytes(sample)
    script.write_text("echo c > /proc/sysrq-trigger\n")
    status, document = attempt(patch, script)
    assert (status, document["exit_code"]) == (Exit.LOST, Exit.LOST)
    assert document["error"]["kind"] == "LostGuest"
    assert "Kernel panic" in document["error"]["message"]
    assert "sysrq" in document["error"]["console"]


HANGING_FIX = """\
--- a/fs/proc/cmdline.c
+++ b/fs/proc/cmdline.c
@@ -6,5 +6,8 @@

 static int cmdline_proc_show(struct seq_file *m, void *v)
 {
+\tlocal_irq_disable();
+\tfor (;;)
+\t\tcpu_relax();
 \tseq_puts(m, saved_command_line);
 \tseq_putc(m, '\\n');
"""


def test_a_guest_that_hangs(kernel: Kernel, tmp_path: Path) -> None:
    """A fix that holds every processor: a lost guest, and not a script that failed."""
    fix, script = tmp_path / "fix.patch", tmp_path / "script"
    fix.write_text(HANGING_FIX)
    script.write_text("for n in 1 2 3 4; do cat /proc/cmdline & done; wait\n")
    built = pipeline.build([fix], kernel, output=tmp_path / "hang.ko")
    status, document = attempt(built.path, script)
    assert (status, document["error"]["kind"]) == (Exit.LOST, "LostGuest")
    assert "hang" in document["error"]["message"]
    assert document["error"]["remedy"]
