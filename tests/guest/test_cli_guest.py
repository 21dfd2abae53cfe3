# SPDX-License-Identifier: GPL-2.0-or-later
"""``livegraft try`` as a command, and the documents of the runtime's verbs on a running kernel."""

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
from livegraft.kernel.kernel import Kernel
from livegraft.lab.boot import boot

pytestmark = pytest.mark.guest

ROOT = Path(__file__).parents[2]


def attempt(*words: str) -> tuple[int, Any, str]:
    """Run ``livegraft try --json``: its exit code, its document, and what it said."""
    done = subprocess.run(
        [sys.executable, "-m", "livegraft.cli.main", "try", *words, "-k", RELEASE, "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, json.loads(done.stdout), done.stderr


@pytest.mark.parametrize(("status", "code"), [(0, Exit.DONE), (3, Exit.FAILED)])
def test_the_script_s_status_is_in_the_document_and_not_the_exit_code(
    status: int, code: Exit, foreign_patch: Path, tmp_path: Path
) -> None:
    script = tmp_path / "script"
    script.write_text(f"cat /proc/cmdline; exit {status}\n")
    exit_code, document, talk = attempt(str(foreign_patch), "--foreign", "--run", str(script))
    validate("try", document)
    assert (exit_code, document["script_status"]) == (code, status)
    assert document["script_stdout"] == "lgt_foreign was here\n"
    assert (document["kernel"], document["state"]) == (RELEASE, "enabled")
    assert document["transition_ms"] > 0
    assert "load ..." in talk


def test_a_patch_that_livegraft_did_not_build_is_refused_before_the_guest(
    foreign_patch: Path,
) -> None:
    exit_code, document, _ = attempt(str(foreign_patch))
    validate("try", document)
    assert exit_code == Exit.FAILED
    assert "--foreign" in document["error"]["remedy"]


def test_documents_of_the_running_kernel(one_kernel: Kernel, foreign_patch: Path) -> None:
    with boot(
        one_kernel.vmlinuz, one_kernel.modules, files={"/root/p.ko": foreign_patch.read_bytes()}
    ) as guest:

        def answer(verb: str, *arguments: str) -> Any:
            argv = ["python3", "-m", "livegraft.runtime", verb, *arguments, "--json"]
            document = json.loads(guest.run(argv).stdout)
            validate(verb, document)
            return document

        assert answer("status")["patches"] == []
        assert answer("load", "/root/p.ko", "--foreign")["state"] == "enabled"
        (found,) = answer("status")["patches"]
        assert (found["name"], found["foreign"]) == ("lgt_foreign", True)
        assert answer("wait", "lgt_foreign")["state"] == "enabled"
        assert answer("unload", "--all")["unloaded"][0]["state"] == "unloaded"
