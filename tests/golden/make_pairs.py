# SPDX-License-Identifier: GPL-2.0-or-later
"""Compile the pairs of tests/golden/data anew, with cross compilers of Debian 12.

Needs gcc-12-{aarch64,powerpc64le,s390x}-linux-gnu, clang-16 and llvm-16.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from tests.golden.architecture_cases import cases, preamble

DATA = Path(__file__).parent / "data"

FLAGS = (
    *("-c", "-O2", "-std=gnu11", "-w", "-ffunction-sections", "-fdata-sections", "-fno-common"),
    *("-fno-strict-aliasing", "-fno-stack-protector", "-fno-asynchronous-unwind-tables"),
)

COMPILERS: dict[str, tuple[str, ...]] = {
    "aarch64": (
        *("aarch64-linux-gnu-gcc-12", "-fno-pie", "-fpatchable-function-entry=2"),
        *("-mgeneral-regs-only", "-DNOT_TRACED=patchable_function_entry(0)"),
    ),
    "powerpc64le": (
        *("powerpc64le-linux-gnu-gcc-12", "-fno-pie", "-mabi=elfv2", "-mcmodel=medium"),
        *("-mtraceback=no", "-pg", "-mprofile-kernel", "-msoft-float", "-mno-altivec", "-mno-vsx"),
        "-DNOT_TRACED=unused",
    ),
    "s390x": (
        *("s390x-linux-gnu-gcc-12", "-fno-pie", "-march=z10", "-msoft-float", "-mbackchain"),
        *("-pg", "-mfentry", "-mrecord-mcount", "-mnop-mcount", "-DNOT_TRACED=unused"),
    ),
    "loongarch64": (
        *("clang-16", "--target=loongarch64-linux-gnu", "-fno-pic", "-pg", "-DNOT_TRACED=unused"),
    ),
}


def compiled(architecture: str, source: str, folder: Path) -> bytes:
    """An object of a unit called ``fs/unit.c``."""
    file, output = folder / "unit.c", folder / "unit.o"
    file.write_text(f'{preamble(architecture)}\n#line 1 "fs/unit.c"\n{source}')
    subprocess.run([*COMPILERS[architecture], *FLAGS, "-o", output, file], check=True, cwd=folder)
    if architecture == "loongarch64":  # the kernel's compiler calls it so
        rename = ["llvm-objcopy-16", "--redefine-sym", "mcount=_mcount", str(output)]
        subprocess.run(rename, check=True)
    return output.read_bytes()


def make(architecture: str, folder: Path) -> None:
    """Write all pairs of an architecture to its archive, with what they were made from."""
    listed = cases(architecture)
    sources = {name: [case.before, case.after] for name, case in listed.items()}
    made = {"sources.json": json.dumps([preamble(architecture), sources]).encode()}
    for name, case in listed.items():
        made[f"{name}/original.o"] = compiled(architecture, case.before, folder)
        made[f"{name}/patched.o"] = compiled(architecture, case.after, folder)
    with zipfile.ZipFile(DATA / f"{architecture}.zip", "w") as archive:
        for name, data in made.items():
            entry = zipfile.ZipInfo(name)  # with no time of its own
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, data, compresslevel=9)


def main(architectures: list[str]) -> None:
    """Make the archives of some architectures, or of all."""
    DATA.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        for architecture in architectures or COMPILERS:
            make(architecture, Path(folder))


if __name__ == "__main__":
    main(sys.argv[1:])
