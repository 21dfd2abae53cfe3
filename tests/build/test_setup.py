# SPDX-License-Identifier: GPL-2.0-or-later
"""setup/setup.sh on a copy of the project: interrupted, killed, twice at once, without network.

It needs a package index, as setup itself does.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.build

ROOT = Path(__file__).parents[2]
STAMP = Path(".venv/.livegraft-installed")
PINNED = ("setuptools", "unidiff")
"""What the copy installs; the whole takes a minute, and would show no more."""

TRIES = 5
"""Of ending a run in the middle, on a machine that does other work, too."""


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / "setup", tmp_path / "setup", ignore=shutil.ignore_patterns(".lock"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "src/livegraft").mkdir(parents=True)
    (tmp_path / "src/livegraft/__init__.py").touch()
    lock = (ROOT / "requirements.lock").read_text("utf-8")
    (tmp_path / "requirements.lock").write_text("".join(pin(lock, name) for name in PINNED))
    return tmp_path


def pin(lock: str, name: str) -> str:
    """A package's lines."""
    found = re.search(rf"^{name}==(.*\\\n)*.*\n", lock, re.MULTILINE)
    assert found is not None
    return found[0]


class Run:
    """One run, in a process group of its own, as a terminal's."""

    def __init__(self, folder: Path, *before: str) -> None:
        # A shell that was started with SIGINT ignored goes on ignoring it.
        words = ["env", "--default-signal=INT", *before, str(folder / "setup/setup.sh")]
        self._process = subprocess.Popen(
            words, stderr=subprocess.PIPE, text=True, start_new_session=True
        )

    def end_at(self, reached: Callable[[], object], number: signal.Signals) -> bool:
        """Send a signal to all of it as soon as something has happened; whether it was in time."""
        end = time.monotonic() + 120
        while self._process.poll() is None and not reached() and time.monotonic() < end:
            time.sleep(0.01)
        running = self._process.poll() is None
        if running:
            os.killpg(self._process.pid, number if reached() else signal.SIGKILL)
        status, said = self.finish()
        assert reached() and (running or status == 0), f"it did not come so far: {said}"
        return running and status != 0

    def finish(self) -> tuple[int, str]:
        """Its exit status, and what it said."""
        _, said = self._process.communicate(timeout=240)
        return self._process.returncode, said


def test_it_survives_what_happens_to_it(copy: Path) -> None:
    """Each run is ended in a later step; what is whole at last has come from two at once."""
    python, stamp = copy / ".venv/bin/python", copy / STAMP
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    installed = copy / ".venv/lib" / version / "site-packages"
    for number, reached in (
        (signal.SIGINT, python.exists),
        (signal.SIGKILL, (installed / "pip").exists),
        (signal.SIGKILL, (installed / "unidiff").exists),
    ):
        for _ in range(TRIES):
            if Run(copy).end_at(reached, number):
                break
            shutil.rmtree(copy / ".venv")  # it was whole before anybody could end it
        else:
            pytest.fail(f"none of {TRIES} runs could be ended in the middle")
        assert not stamp.exists()

    both = Run(copy), Run(copy)
    (one, said), (other, heard) = (run.finish() for run in both)
    assert (one, other) == (0, 0), said + heard
    assert (said + heard).count("making the virtual environment") == 1
    assert (said + heard).count("waiting for another run") == 1
    found = "import livegraft, setuptools, unidiff; print(livegraft.__file__)"
    words = [str(python), "-I", "-c", found]
    printed = subprocess.run(words, capture_output=True, text=True, check=True)
    assert printed.stdout.strip() == str(copy / "src/livegraft/__init__.py")
    assert (copy / ".venv/bin/livegraft").exists()

    status, said = Run(copy, "unshare", "--net").finish()
    assert status == 0, said
    assert "making" not in said and "ready" in said
