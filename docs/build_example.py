# SPDX-License-Identifier: GPL-2.0-or-later
"""Write docs/example: a live patch that is cut out of the source, as its reviewer gets it.

Usage: python docs/build_example.py

The fix is kept there: security/integrity/ima/ima_appraise.c between Debian's sources 6.1.190-1 and
6.1.192-1.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

from livegraft.cli.main import main

FOLDER = Path(__file__).parent / "example"
KERNEL = "6.1.0-54-amd64"
FIX = "ima_appraise.patch"


def extract(output: Path) -> int:
    """Cut the patch out of the source.

    Args:
        output: the folder to write.

    Returns:
        The exit status.
    """
    with tempfile.TemporaryDirectory() as folder:
        fix = Path(folder, FIX)
        shutil.copyfile(FOLDER / f"1-{FIX}", fix)
        return main(["extract", str(fix), "-k", KERNEL, "-o", str(output)])


def renew() -> int:
    """Write the folder anew; it stays as it is if that fails."""
    with tempfile.TemporaryDirectory() as folder:
        status = extract(Path(folder, "example"))
        if status == 0:
            shutil.rmtree(FOLDER)
            shutil.copytree(Path(folder, "example"), FOLDER)
    return status


if __name__ == "__main__":
    sys.exit(renew())
