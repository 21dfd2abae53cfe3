# SPDX-License-Identifier: GPL-2.0-or-later
"""``livegraft try`` as a command, and the documents of the runtime's verbs on a running kernel."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from tests.releases import RELEASE

from livegraft.errors import Exit
from livegraft.kernel.kernel import Kernel, prepare
from livegraft.lab.boot import boot
from livegraft.run import run

pytestmark = pytest.mark.guest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def kernel() -> Kernel:
    return prepare(RELEASE)


@pytest.fixture(scope="module")
def patch(kernel: Kernel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A live patch that was written by hand: only the command line is tested here."""
    folder = tmp_path_factory.mktemp("modules") / "lgt"
    shutil.copytree(Path(__file__).parent / "runtime_modules", folder)
    run(
        [
            *("make", "-C", kernel.headers, f"M={folder}", f"CC={kernel.compiler}"),
            *(f"LGT_INCLUDE={ROOT / 'kmod/include'}", f"LGT_FIX={'a5' * 32}", "modules"),
        ]
    )
    return folder / "lgt_foreign.ko"


def validate(verb: str, document: object) -> None:
    """Hold a document against the schema of its verb."""
    schema = json.loads((ROOT / "docs" / "schema" / f"{verb}.json").read_text("utf-8"))
    Draft202012Validator(schema).validate(document)


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
    status: int, code: Exit, patch: Path, tmp_path: Path
) -> None:
    script = tmp_path / "script"
    script.write_text(f"cat /proc/cmdline; exit {status}\n")
    exit_code, document, talk = attempt(str(patch), "--foreign", "--run", str(script))
    validate("try", document)
    assert (exit_code, document["script_status"]) == (code, status)
    assert document["script_stdout"] == "lgt_foreign was here\n"
    assert (document["kernel"], document["state"]) == (RELEASE, "enabled")
    assert document["transition_ms"] > 0
    assert "load ..." in talk


def test_a_patch_that_livegraft_did_not_build_is_refused_before_the_guest(patch: Path) -> None:
    exit_code, document, _ = attempt(str(patch))
    validate("try", document)
    assert exit_code == Exit.FAILED
    assert "--foreign" in document["error"]["remedy"]


def test_documents_of_the_running_kernel(kernel: Kernel, patch: Path) -> None:
    with boot(kernel.vmlinuz, kernel.modules, files={"/root/p.ko": patch.read_bytes()}) as guest:

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
