# SPDX-License-Identifier: GPL-2.0-or-later
"""The whole way by commands alone: check, build, inspect, try, and what each answers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.documents import validate
from tests.releases import RELEASE

from livegraft.errors import Exit
from livegraft.fix.fix import Fix

pytestmark = [pytest.mark.build, pytest.mark.guest]

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT / "demo" / "sample.patch"
FUNCTION = {"object": "vmlinux", "name": "cmdline_proc_show", "sympos": 1, "state": "changed"}

COMMENT_ONLY = """\
--- a/fs/proc/cmdline.c
+++ b/fs/proc/cmdline.c
@@ -1 +1,2 @@
 // SPDX-License-Identifier: GPL-2.0
+/* a comment, and every line number after it */
"""

DATA = """\
--- a/net/ipv4/tcp_cubic.c
+++ b/net/ipv4/tcp_cubic.c
@@ -50 +50 @@
-static int beta __read_mostly = 717;\t/* = 717/1024 (BICTCP_BETA_SCALE) */
+static int beta __read_mostly = 718;\t/* = 717/1024 (BICTCP_BETA_SCALE) */
"""


def livegraft(*words: str | Path) -> tuple[int, Any]:
    """Run a verb with ``--json``: its exit code, and its document, held against its schema."""
    argv = [sys.executable, "-m", "livegraft.cli.main", *map(str, words), "--json"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    document = json.loads(done.stdout)
    validate(str(words[0]), document)
    return done.returncode, document


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """The sample fix's module, and the document of ``build``."""
    module = tmp_path_factory.mktemp("built") / "sample.ko"
    status, document = livegraft("build", SAMPLE, "-k", RELEASE, "-o", module)
    assert status == Exit.DONE, document
    return module, document


def test_check() -> None:
    status, document = livegraft("check", SAMPLE, "-k", RELEASE)
    assert (status, document["verdict"]) == (Exit.DONE, "patchable")
    assert document["functions"] == [FUNCTION]


def test_build(built: tuple[Path, Any]) -> None:
    module, document = built
    assert (document["verdict"], document["kernel"]) == ("patchable", RELEASE)
    assert document["functions"] == [FUNCTION]
    assert (document["path"], document["size"]) == (str(module), module.stat().st_size)
    assert {"compile", "compare", "prove"} <= set(document["timings"])


def test_inspect(built: tuple[Path, Any]) -> None:
    status, document = livegraft("inspect", built[0])
    assert status == Exit.DONE
    assert document["name"] == built[1]["name"]
    assert document["kernel"]["release"] == RELEASE
    (target,) = document["objects"]
    (function,) = target["functions"]
    named = {key: function[key] for key in ("name", "sympos", "state")}
    assert {"object": target["name"]} | named == FUNCTION
    assert document["proof"] is True
    assert document["fix"]["sha256"] == Fix.load([SAMPLE]).sha256


def test_try(built: tuple[Path, Any], tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("grep -q livegraft.sample=1 /proc/cmdline\n")
    status, document = livegraft("try", built[0], "-k", RELEASE, "--run", script)
    assert status == Exit.DONE, document
    assert (document["script_status"], document["faults"]) == (0, [])


@pytest.mark.parametrize(
    ("diff", "code", "verdict"),
    [(COMMENT_ONLY, Exit.UNCHANGED, "unchanged"), (DATA, Exit.REFUSED, "refused")],
)
def test_other_verdicts(diff: str, code: Exit, verdict: str, tmp_path: Path) -> None:
    fix, module = tmp_path / "fix.patch", tmp_path / "fix.ko"
    fix.write_text(diff)
    for words in (("check", fix), ("build", fix, "-o", module)):
        status, document = livegraft(*words, "-k", RELEASE)
        assert (status, document["verdict"]) == (code, verdict)
        assert bool(document["reasons"]) == (verdict == "refused")
    assert not module.exists()


def test_a_fix_that_does_not_apply(tmp_path: Path) -> None:
    fix = tmp_path / "fix.patch"
    fix.write_text(SAMPLE.read_text().replace("\n ", "\n  no such "))
    status, document = livegraft("check", fix, "-k", RELEASE)
    assert (status, document["exit_code"]) == (Exit.FAILED, 1)
    assert document["error"]["kind"] == "DoesNotApply"


def test_prepare() -> None:
    status, document = livegraft("prepare", RELEASE)
    assert (status, document["release"]) == (Exit.DONE, RELEASE)
    assert Path(document["source"]).is_dir() and Path(document["build"]).is_dir()


def test_diff_of_a_source_with_itself(tmp_path: Path) -> None:
    status, document = livegraft(
        "diff", RELEASE, RELEASE, "--path", "fs/proc/*", "-o", tmp_path / "none.patch"
    )
    assert (status, document["verdict"]) == (Exit.UNCHANGED, "unchanged")
    assert not (tmp_path / "none.patch").exists()


def test_diff_of_two_sources(tmp_path: Path) -> None:
    fix = tmp_path / "fix.patch"
    words = ("diff", "6.1.192-1", "6.1.192-2", "--path", "fs/ext4/*", "-o", fix)
    status, document = livegraft(*words)
    if "error" in document:
        pytest.skip(f"{document['error']['object']}: the archive has dropped it")
    assert (status, document["files"]) == (Exit.DONE, ["fs/ext4/mballoc.c"])
    assert fix.read_text().startswith("diff ")
