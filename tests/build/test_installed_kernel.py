# SPDX-License-Identifier: GPL-2.0-or-later
"""A patch from nothing but what a machine has installed: apt's own packages, and no network."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests import system_guest

from livegraft import pipeline
from livegraft.kernel.kernel import Kernel
from livegraft.kernel.release import Release
from livegraft.run import run

SAMPLE = Path(__file__).parents[2] / "demo/sample.patch"

SCRIPT = """\
import sys
from pathlib import Path
from livegraft import pipeline
from livegraft.cache import Cache
from livegraft.kernel.installed import Installed
root, cache, release, fix, output = sys.argv[1:]
kernel = pipeline.prepare(release, source=Installed(Path(root)), cache=Cache(Path(cache)))
pipeline.build([Path(fix)], kernel, output=Path(output))
"""

pytestmark = [
    pytest.mark.build,
    pytest.mark.soak,  # a Debian with the kernel's packages is made, and a second source unpacked
    pytest.mark.skipif(os.geteuid() != 0, reason="makes a system, and takes the network away"),
]


@pytest.fixture
def system(kernel: Kernel, tmp_path: Path) -> Path:
    """The root folder of a Debian that has the kernel, its headers and its source."""
    release = Release.parse(kernel.release)
    source = f"{release.source_package}={kernel.source_version}"
    wanted = f"linux-image-{release},{release.headers_package},{source}"
    sources = tmp_path / "sources.list"
    sources.write_text(system_guest.sources())
    root = tmp_path / "system"
    what = ["--variant=minbase", f"--include={wanted}", "--format=directory"]
    run(["mmdebstrap", *what, "bookworm", root, sources])
    return root


def test_a_patch_from_what_is_installed(kernel: Kernel, system: Path, tmp_path: Path) -> None:
    """It is the one that the archive's packages make, byte for byte."""
    # The module has its name from its file's.
    places = [tmp_path / name / "fix.ko" for name in ("installed", "archive")]
    for each in places:
        each.parent.mkdir()
    paths = (system, tmp_path / "cache", kernel.release, SAMPLE, places[0])
    command = ["unshare", "--net", sys.executable, "-c", SCRIPT, *map(str, paths)]
    subprocess.run(command, check=True, timeout=600)
    pipeline.build([SAMPLE], kernel, output=places[1])
    assert places[0].read_bytes() == places[1].read_bytes()
