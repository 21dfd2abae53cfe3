# SPDX-License-Identifier: GPL-2.0-or-later
"""The runtime's own front end, run as a program without any package but Python's library."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from livegraft.errors import PatchError, UsageError
from livegraft.runtime import commandline, interruption, model_named
from livegraft.runtime.engine import EngineModel
from livegraft.runtime.model import ModelName

SOURCE = Path(__file__).parents[2] / "src"


def run(*arguments: str, before: str = "pass") -> subprocess.CompletedProcess[str]:
    """Isolated (-I) and without site-packages (-S): a production machine.

    Args:
        arguments: of the program.
        before: a statement that the program runs first.
    """
    code = (
        f"import os, sys; sys.path.insert(0, {str(SOURCE)!r}); "
        f"from livegraft.runtime.__main__ import main; {before}; sys.exit(main())"
    )
    return subprocess.run(
        [sys.executable, "-I", "-S", "-c", code, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.mark.parametrize("verb", sorted(commandline.HELP))
def test_help_has_an_example(verb: str) -> None:
    done = run(verb, "--help")
    assert done.returncode == 0
    assert f"example: livegraft {verb}" in " ".join(done.stdout.split())


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["load"],
        ["unload"],
        ["unload", "x", "--all"],
        ["load", "x.ko", "--model", "magic"],
        ["wait", "x", "--timeout", "-1"],
        ["wait", "x", "--timeout", "nan"],
    ],
)
def test_usage(arguments: list[str]) -> None:
    assert run(*arguments).returncode == 2


# capset(2) with no capability at all, for this process: what another user has. (Changing the user
# itself would need a checkout and an interpreter that others may read.)
WITHOUT_CAPABILITIES = (
    "import ctypes; ctypes.CDLL(None).capset("
    "(ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)())"
)


@pytest.mark.parametrize("arguments", [["load", "x.ko"], ["unload", "x"], ["unload", "--all"]])
def test_not_root(arguments: list[str]) -> None:
    done = run(*arguments, "--json", before=WITHOUT_CAPABILITIES)
    assert done.returncode == 1
    error = json.loads(done.stdout)["error"]
    assert error["message"] in ("not root", "root lacks the capability CAP_SYS_MODULE here")
    assert "sudo" in error["remedy"]
    assert error["message"] in done.stderr


def test_only_the_standard_library() -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(SOURCE)!r}); before = set(sys.modules); "
        "import livegraft.runtime.__main__, livegraft.runtime.engine, livegraft.runtime.native; "
        "print(*sorted(name for name in set(sys.modules) - before "
        "if name.partition('.')[0] not in sys.stdlib_module_names))"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True
    )
    allowed = tuple(f"livegraft.{name}" for name in ("run", "errors", "progress", "elf", "trust"))
    others = [name for name in done.stdout.split() if not name.startswith(allowed)]
    assert others == ["livegraft"]


@pytest.mark.parametrize("name", ["hybrid", "stop", "task"])
def test_models_of_the_engine(name: str) -> None:
    model = model_named(name)
    assert isinstance(model, EngineModel)
    with pytest.raises(PatchError, match="engine module"):
        model.require()


def test_model_names() -> None:
    assert model_named("native").name is ModelName.NATIVE
    with pytest.raises(UsageError, match="native, hybrid, stop, task"):
        model_named("magic")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_endings_come_as_interrupts(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt), interruption.as_interrupts():
        signal.raise_signal(number)
        time.sleep(1)
    assert signal.getsignal(number) is before


def test_undoing_is_not_interrupted() -> None:
    with interruption.as_interrupts(), interruption.undisturbed():
        signal.raise_signal(signal.SIGTERM)
        time.sleep(0.01)
