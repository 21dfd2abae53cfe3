# SPDX-License-Identifier: GPL-2.0-or-later
"""The kernel's own style checker has nothing to say of the engine."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from livegraft.kernel.kernel import Kernel

pytestmark = pytest.mark.build

KMOD = Path(__file__).parents[2] / "kmod"

IGNORED = {
    "CAMELCASE": "the kernel's own types are called so (Elf64_Rela)",
    "LINUX_VERSION_CODE": "the engine is built for several kernels, and stays outside of each",
    "CONSTANT_COMPARISON": "it takes KERNEL_VERSION() for a constant, wherever that stands",
    "BIT_MACRO": "table.h is read by the assembler too",
}
"""Kinds of findings that mean nothing here, each with its reason."""

needs_perl = pytest.mark.skipif(
    shutil.which("perl") is None, reason="perl is missing: apt-get install perl-base"
)


def findings(kernel: Kernel, folder: Path, *paths: Path) -> list[str]:
    """What scripts/checkpatch.pl of a kernel's source finds; it leaves a file in its folder."""
    done = subprocess.run(
        [
            *("perl", str(kernel.source / "scripts/checkpatch.pl")),
            *("--strict", "--no-summary", "--terse", "--show-types", f"--root={kernel.source}"),
            *("--ignore", ",".join(IGNORED), "--file", *map(str, paths)),
        ],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "checkpatch.pl" not in done.stderr, done.stderr
    return done.stdout.splitlines()


@needs_perl
def test_the_style_is_the_kernels(newest_kernel: Kernel, tmp_path: Path) -> None:
    sources = [path for suffix in "chS" for path in sorted(KMOD.glob(f"*.{suffix}"))]
    written = [path for path in sources if not path.name.endswith(".mod.c")]
    assert len(written) > 10
    shared = [KMOD / f"include/livegraft_{name}.h" for name in ("abi", "rcu")]
    assert findings(newest_kernel, tmp_path, *written, *shared) == []


@needs_perl
def test_a_finding_would_be_seen(newest_kernel: Kernel, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.c"
    wrong.write_text("// SPDX-License-Identifier: GPL-2.0\nint f(void){\n  return(1);\n}\n")
    assert any("OPEN_BRACE" in line for line in findings(newest_kernel, tmp_path, wrong))
