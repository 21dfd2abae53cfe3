# SPDX-License-Identifier: GPL-2.0-or-later
"""Bad input gets a clear error, and nothing is lost: through the command line, as a user meets it.

Every run has a folder of its own for the output and one for temporary files. Whatever is in one of
them afterwards was left behind.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from livegraft.cache import Cache
from livegraft.errors import Exit, NotPrepared
from livegraft.kernel.kernel import Kernel, open_prepared

pytestmark = pytest.mark.build

FixOf = Callable[[Mapping[str, tuple[str, str] | str]], Path]

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT / "demo/sample.patch"
CMDLINE = "fs/proc/cmdline.c"
COMMENT = "/* changed */\n"

PRIVATE_MOUNTS = ("unshare", "--mount", "--propagation", "private")


@dataclass(frozen=True, slots=True)
class Done:
    """How a command ended.

    Args:
        status: its exit code.
        document: what it printed with ``--json``.
        talk: what it said on standard error.
    """

    status: int
    document: dict[str, Any]
    talk: str

    @property
    def error(self) -> dict[str, Any]:
        """The error, with its three parts."""
        found: dict[str, Any] = self.document["error"]
        assert all(found[part] for part in ("object", "message", "remedy")), found
        return found

    @property
    def reason(self) -> dict[str, str]:
        """The one reason of a refusal, with its parts."""
        (found,) = self.document["reasons"]
        assert all(found[part] for part in ("rule", "object", "message", "remedy")), found
        reason: dict[str, str] = found
        return reason


class Desk:
    """Where a test runs commands.

    Args:
        folder: holds the output and the temporary files.
        release: the kernel.
    """

    def __init__(self, folder: Path, release: str) -> None:
        self.release = release
        self.temporary = folder / "temporary"
        self.output = folder / "output"
        self.temporary.mkdir()
        self.output.mkdir()
        self.module = self.output / "fix.ko"

    def words(self, verb: str, *words: str | Path) -> list[str]:
        """The command line of a verb."""
        return [sys.executable, "-m", "livegraft.cli.main", verb, *map(str, words), "--json"]

    def building(self, *fixes: Path) -> list[str]:
        """The command line of ``build``."""
        return self.words("build", *fixes, "-k", self.release, "-o", self.module)

    def environment(self, more: Mapping[str, str]) -> dict[str, str]:
        return {**os.environ, "TMPDIR": str(self.temporary), **more}

    def run(self, argv: Sequence[str], more: Mapping[str, str] | None = None) -> Done:
        """Run a command to its end."""
        done = subprocess.run(
            argv,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
            cwd=self.output,
            env=self.environment(more or {}),
        )
        assert "Traceback" not in done.stderr, done.stderr
        assert done.stdout, done.stderr
        return Done(done.returncode, json.loads(done.stdout), done.stderr)

    def build(self, *fixes: Path, more: Mapping[str, str] | None = None) -> Done:
        """Run ``build``."""
        return self.run(self.building(*fixes), more)

    def left_behind(self) -> list[Path]:
        return [*self.temporary.iterdir(), *self.output.iterdir()]


@pytest.fixture
def desk(tmp_path: Path, kernel: Kernel) -> Desk:
    return Desk(tmp_path, kernel.release)


def write(folder: Path, text: str) -> Path:
    fix = folder / "bad.patch"
    fix.write_text(text)
    return fix


# -- the fix --------------------------------------------------------------------------------------


def test_a_diff_that_does_not_apply(desk: Desk, tmp_path: Path) -> None:
    """The second of two hunks; nearest is where the rest of its lines stands."""
    text = SAMPLE.read_text() + (
        "@@ -50,4 +51,4 @@\n static int __init proc_cmdline_init(void)\n {\n"
        '-\tproc_create_single("another", 0, NULL, cmdline_proc_show);\n'
        '+\tproc_create_single("livegraft", 0, NULL, cmdline_proc_show);\n \treturn 0;\n'
    )
    done = desk.build(write(tmp_path, text))
    assert done.status == Exit.FAILED
    assert done.error["kind"] == "DoesNotApply"
    assert done.error["object"] == f"{CMDLINE}: hunk 2 (@@ -50,4 +51,4 @@)"
    assert f"nearest is {CMDLINE}:14, where 3 of 4 lines match" in done.error["message"]
    assert desk.left_behind() == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty"),
        ("no diff at all\n", "no change"),
        (f"--- a/{CMDLINE}\n+++ b/{CMDLINE}\n@@ -1,9 +1,9 @@\n-cut off\n", "is damaged"),
        (f"--- a/{CMDLINE}\n+++ b/{CMDLINE}\nBinary files differ\n", ""),
        ("--- a/src/main.py\n+++ b/src/main.py\n@@ -1 +1 @@\n-a\n+b\n", "in this kernel's source"),
    ],
)
def test_what_is_no_diff_of_this_kernel(text: str, said: str, desk: Desk, tmp_path: Path) -> None:
    done = desk.build(write(tmp_path, text))
    assert done.status == Exit.FAILED
    assert said in done.error["message"]
    assert desk.left_behind() == []


REFUSED = {
    "Documentation/index.rst": "documentation-only",
    "fs/ext2/inode.c": "not-built",
    "arch/x86/entry/entry_64.S": "assembly",
    "arch/x86/entry/vdso/vclock_gettime.c": "vdso",
}


@pytest.mark.parametrize("path", REFUSED)
@pytest.mark.parametrize("verb", ["check", "build"])
def test_what_cannot_be_patched(verb: str, path: str, desk: Desk, fix_of: FixOf) -> None:
    fix = fix_of({path: COMMENT})
    output = ["-o", str(desk.module)] if verb == "build" else []
    done = desk.run(desk.words(verb, fix, "-k", desk.release, *output))
    assert (done.status, done.document["verdict"]) == (Exit.REFUSED, "refused")
    assert (done.reason["rule"], done.reason["object"]) == (REFUSED[path], path)
    assert desk.left_behind() == []


def test_code_that_has_run_already(desk: Desk, fix_of: FixOf) -> None:
    edit = ('proc_create_single("cmdline", 0,', 'proc_create_single("cmdline", 0444,')
    done = desk.build(fix_of({CMDLINE: edit}))
    assert done.status == Exit.REFUSED
    assert done.reason["object"] == "proc_cmdline_init"
    assert "init" in done.reason["rule"] and ".init.text" in done.reason["message"]
    assert desk.left_behind() == []


def test_a_change_of_comments_builds_nothing(desk: Desk, fix_of: FixOf) -> None:
    done = desk.build(fix_of({CMDLINE: COMMENT}))
    assert (done.status, done.document["verdict"]) == (Exit.UNCHANGED, "unchanged")
    assert desk.left_behind() == []


def test_a_fix_that_does_not_compile(desk: Desk, fix_of: FixOf, kernel: Kernel) -> None:
    edit = ("\tseq_puts(m, saved_command_line);", "\tseq_puts(m, livegraft_undeclared);")
    desk.module.write_bytes(b"what was built before")
    done = desk.build(fix_of({CMDLINE: edit}))
    assert done.status == Exit.FAILED
    assert (done.error["kind"], done.error["object"]) == ("CompileError", f"{CMDLINE}:9")
    first, _, rest = done.error["message"].partition("\n")
    assert "livegraft_undeclared" in first and "undeclared" in first
    assert "seq_puts(m, livegraft_undeclared);" in rest and "^" in rest
    for place in (kernel.cache.root, kernel.source, desk.temporary):
        assert f"{place}/" not in done.document["error"]["message"] + done.talk
    # What was there stays as it was.
    assert desk.module.read_bytes() == b"what was built before"
    assert desk.left_behind() == [desk.module]


# -- the kernel -----------------------------------------------------------------------------------


def test_a_release_that_does_not_exist(desk: Desk) -> None:
    absent = desk.release.replace("-", "0-", 1)
    done = desk.run(desk.words("build", SAMPLE, "-k", absent, "-o", desk.module))
    assert done.status == Exit.FAILED
    assert (done.error["kind"], done.error["object"]) == ("UnknownRelease", absent)
    assert "did you mean 6." in done.error["remedy"]
    assert "livegraft kernels" in done.error["remedy"]
    assert desk.left_behind() == []


def test_another_machine_s_kernel(desk: Desk) -> None:
    done = desk.run(desk.words("prepare", "6.1.0-55-arm64"))
    assert (done.status, done.error["kind"]) == (Exit.FAILED, "UnknownRelease")


def test_another_compiler(desk: Desk, kernel: Kernel, tmp_path: Path) -> None:
    """Of the same name, another version; and none at all."""
    folder = tmp_path / "bin"
    folder.mkdir()
    bare = kernel.compiler.removeprefix("x86_64-linux-gnu-")
    for name in (bare, f"x86_64-linux-gnu-{bare}"):
        (folder / name).write_text(f"#!/bin/sh\necho '{name} (Debian 12.1.0-1) 12.1.0'\n")
        (folder / name).chmod(0o755)
    version = kernel.config["CONFIG_CC_VERSION_TEXT"].partition(" ")[2]
    for path, here in (
        (f"{folder}:{os.environ['PATH']}", f"here is {bare} (Debian 12.1.0-1) 12.1.0"),
        (str(tmp_path), f"here is no {bare}"),
    ):
        done = desk.build(SAMPLE, more={"PATH": path})
        assert (done.status, done.error["kind"]) == (Exit.FAILED, "WrongCompiler")
        assert done.error["object"] == kernel.release
        assert f"was built by {bare} {version}" in done.error["message"]
        assert here in done.error["message"]
        package = version.partition("(Debian ")[2].partition(")")[0]
        assert done.error["remedy"] == f"apt-get install {bare}={package}"
    assert desk.left_behind() == []


def test_no_network(desk: Desk, tmp_path: Path) -> None:
    nowhere = dict.fromkeys(("http_proxy", "https_proxy"), "http://127.0.0.1:9")
    home = tmp_path / "empty"
    done = desk.run(desk.words("prepare", desk.release, "--cache", home), nowhere)
    assert (done.status, done.error["kind"]) == (Exit.FAILED, "NoNetwork")
    assert "linux-" in done.error["object"] and "--packages" in done.error["remedy"]
    with pytest.raises(NotPrepared):
        open_prepared(desk.release, Cache(home))
    assert not list(home.rglob("*.deb"))
    assert not any((home / name).exists() for name in ("kernel", "source"))
    assert desk.left_behind() == []


# -- a full disk ----------------------------------------------------------------------------------


def on_full_disk(place: Path, kibibytes: int, argv: Sequence[str]) -> list[str]:
    """A command that sees a small file system at `place`, and that nobody else sees.

    What is left there at the end is listed in the file ``left`` beside it.
    """
    script = (
        "place=$1 size=$2; shift 2;"
        ' mount -t tmpfs -o "size=$size,mode=755" none "$place" || exit 99;'
        ' "$@"; status=$?; find "$place" -mindepth 1 ! -type d >"${place%/}.left"; exit $status'
    )
    return [*PRIVATE_MOUNTS, "sh", "-c", script, "sh", str(place), f"{kibibytes}k", *argv]


needs_mount = pytest.mark.skipif(
    subprocess.run(
        [*PRIVATE_MOUNTS, "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True, check=False
    ).returncode
    != 0,
    reason="may not mount a small file system: run as root, outside of a container, to force it",
)


def left_on(place: Path) -> list[str]:
    return place.with_name(f"{place.name}.left").read_text().splitlines()


@needs_mount
@pytest.mark.parametrize("kibibytes", [8, 48, 128])
def test_a_full_folder_of_temporary_files(kibibytes: int, desk: Desk) -> None:
    """While a unit is compiled, while the module is built, and while make notes dependencies."""
    done = desk.run(on_full_disk(desk.temporary, kibibytes, desk.building(SAMPLE)))
    assert done.status == Exit.FAILED
    assert "the disk is full" in done.error["message"]
    assert "free some space" in done.error["remedy"]
    assert left_on(desk.temporary) == []
    assert desk.left_behind() == []


@needs_mount
def test_a_full_disk_below_the_cache(desk: Desk, kernel: Kernel) -> None:
    """While the original is compiled, which is kept: half of it is not taken for the whole."""
    units = kernel.cache.root / kernel.derived("units")
    left = units.with_name(f"{units.name}.left")
    try:
        done = desk.run(on_full_disk(units, 16, desk.building(SAMPLE)))
        assert left_on(units) == []
    finally:
        left.unlink(missing_ok=True)
    assert done.status == Exit.FAILED
    assert "the disk is full" in done.error["message"]
    assert desk.left_behind() == []
    assert desk.build(SAMPLE).status == Exit.DONE


@needs_mount
def test_a_full_disk_for_the_output(desk: Desk, tmp_path: Path) -> None:
    folder = tmp_path / "small"
    folder.mkdir()
    argv = desk.words("build", SAMPLE, "-k", desk.release, "-o", folder / "fix.ko")
    done = desk.run(on_full_disk(folder, 8, argv))
    assert done.status == Exit.FAILED
    assert "full" in done.error["message"].lower() or "space" in done.error["message"].lower()
    assert left_on(folder) == []


@needs_mount
def test_a_full_disk_while_a_kernel_is_prepared(desk: Desk, kernel: Kernel, tmp_path: Path) -> None:
    packages = kernel.cache.root / "packages"
    if not any(packages.glob("linux-image-*.deb")):
        pytest.skip("no downloaded packages here: run with an empty cache")
    home = tmp_path / "cache"
    home.mkdir()
    argv = desk.words("prepare", desk.release, "--cache", home, "--packages", packages)
    done = desk.run(on_full_disk(home, 3000, argv))
    assert (done.status, done.error["kind"]) == (Exit.FAILED, "CacheError")
    assert "the disk is full" in done.error["message"]
    assert [name for name in left_on(home) if "/locks/" not in name] == []
    assert desk.left_behind() == []


# -- a module that is none ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def built(kernel: Kernel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample's module."""
    folder = tmp_path_factory.mktemp("built")
    desk = Desk(folder, kernel.release)
    assert desk.build(SAMPLE).status == Exit.DONE
    return desk.module


NOT_ROOT = """
import ctypes, sys
from livegraft.cli.main import main
# capset(2) without any: another user would need a checkout that others may read.
ctypes.CDLL(None).capset((ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)())
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("part", [0.0, 0.001, 0.01, 0.3, 0.6, 0.9, 0.999])
def test_a_truncated_module(part: float, built: Path, desk: Desk, tmp_path: Path) -> None:
    data = built.read_bytes()
    half = tmp_path / "half.ko"
    half.write_bytes(data[: int(len(data) * part)])
    for argv in (
        desk.words("inspect", half),
        desk.words("load", half),
        desk.words("try", half, "-k", desk.release),
    ):
        done = desk.run(argv)
        assert done.status == Exit.FAILED
        assert done.error["object"] == str(half) or "root" in done.error["message"]
    assert desk.left_behind() == []


@pytest.mark.parametrize("what", ["text", "object", "module", "foreign", "tampered"])
def test_a_foreign_module(
    what: str, built: Path, desk: Desk, kernel: Kernel, tmp_path: Path
) -> None:
    other = tmp_path / "other.ko"
    if what == "text":
        other.write_text("no module\n" * 100)
    elif what == "object":
        other.write_bytes(Path(sys.executable).resolve().read_bytes())
    elif what == "module":
        shutil.copy(next(kernel.modules.rglob("ext4.ko")), other)
    elif what == "foreign":
        # Another name for the section of the manifest: a live patch that livegraft did not build.
        other.write_bytes(built.read_bytes().replace(b".livegraft\0", b".livegrafX\0"))
    else:
        data = built.read_bytes()
        assert data.count(b'"cmdline_proc_show"') >= 1
        other.write_bytes(data.replace(b'"cmdline_proc_show"', b'"version_proc_show"'))
    done = desk.run(desk.words("inspect", other))
    assert (done.status, done.error["object"]) == (Exit.FAILED, str(other))
    done = desk.run(desk.words("load", other))
    assert (done.status, done.error["object"]) == (Exit.FAILED, str(other))
    if what == "tampered":
        assert "its manifest and its tables differ in" in done.error["message"]
    if what == "foreign":
        assert "--foreign" in done.error["remedy"] or "root" in done.error["message"]
    assert desk.left_behind() == []


@pytest.mark.parametrize("verb", [("load", "x.ko"), ("unload", "x"), ("unload", "--all")])
def test_not_root(verb: tuple[str, str], desk: Desk) -> None:
    done = desk.run([sys.executable, "-c", NOT_ROOT, *verb, "--json"])
    assert done.status == Exit.FAILED
    assert done.error["message"] in ("not root", "root lacks the capability CAP_SYS_MODULE here")
    assert "root" in done.error["remedy"]


# -- Ctrl-C ---------------------------------------------------------------------------------------


def interrupt(desk: Desk, argv: Sequence[str], line: str, after: float) -> Done:
    """Run a command and press Ctrl-C some seconds after it has said `line`."""
    process = subprocess.Popen(
        argv,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=desk.output,
        env=desk.environment({}),
    )
    assert process.stderr is not None
    said = []
    for read in process.stderr:
        said.append(read)
        if read.strip() == line:
            break
    else:
        pytest.fail(f"it ended without saying '{line}': {''.join(said)}")
    time.sleep(after)
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    out, talk = process.communicate(timeout=60)
    assert time.monotonic() - began < 20
    return Done(process.returncode, json.loads(out), "".join(said) + talk)


def working_in(place: Path) -> list[str]:
    """The command lines of programs that work in a folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().decode(errors="replace").replace("\0", " ")
        except OSError:
            continue
        if str(place) in words and "pytest" not in words.split(str(place))[0]:
            found.append(words)
    return found


@pytest.mark.parametrize(("step", "after"), [("compile", 0.2), ("build module", 0.2)])
def test_an_interrupted_build(step: str, after: float, desk: Desk) -> None:
    argv = desk.building(ROOT / "tests/data/ext4-mballoc.patch" if step == "compile" else SAMPLE)
    done = interrupt(desk, argv, f"{step} ...", after)
    assert (done.status, done.document["error"]["kind"]) == (Exit.FAILED, "Interrupted")
    assert "Traceback" not in done.talk
    assert desk.left_behind() == []
    assert working_in(desk.temporary) == []
    assert desk.run(argv).status == Exit.DONE
    assert desk.left_behind() == [desk.module]


def test_an_interrupted_preparation(desk: Desk, kernel: Kernel, tmp_path: Path) -> None:
    """The source is borrowed. test_kernel_prepare.py interrupts other steps, and then finishes."""
    home = tmp_path / "cache"
    home.mkdir()
    (home / "source").symlink_to(kernel.cache.root / "source")
    packages = kernel.cache.root / "packages"
    more = ["--packages", str(packages)] if packages.is_dir() else []
    argv = desk.words("prepare", desk.release, "--cache", home, *more)
    done = interrupt(desk, argv, "configure ...", 1.0)
    assert (done.status, done.document["error"]["kind"]) == (Exit.FAILED, "Interrupted")
    cache = Cache(home)
    with pytest.raises(NotPrepared):
        open_prepared(desk.release, cache)
    assert not (home / kernel.derived("build")).exists()
    assert working_in(home) == []
    assert desk.left_behind() == []
    # What was whole is kept.
    assert cache.has(kernel.derived("image")) and cache.has(kernel.derived("headers"))
