# SPDX-License-Identifier: GPL-2.0-or-later
"""Who includes whom, in a small tree with the kernel's folders."""

from __future__ import annotations

from pathlib import Path

import pytest

from livegraft.fix.includes import IncludeIndex, scan

TREE = {
    "include/linux/fs.h": "#include <linux/list.h>\n#include <asm/page.h>\n#include <asm/xor.h>\n",
    "include/linux/list.h": "",
    "include/asm-generic/xor.h": "",
    "arch/x86/include/asm/page.h": "",
    "arch/arm64/include/asm/page.h": "",
    "fs/internal.h": "",
    "fs/inode.c": '# include <linux/fs.h>\n#include "internal.h"\n',
    "fs/ext4/ext4.h": '#include\t"../internal.h"\n#if 0\n#include <linux/list.h>\n#endif\n',
    "fs/ext4/super.c": '#include "ext4.h"\n#include "parts.c"\n',
    "fs/ext4/parts.c": "",
    "mm/internal.h": "",
    "mm/slub.c": '#include "internal.h"\n',
    "drivers/gpu/inc/reg.h": "",
    "drivers/gpu/core/gpu.c": '#include "reg.h"\n#include "generated_elsewhere.h"\n',
    "drivers/drbd/api.h": "#define MAGIC_FILE <linux/genl.h>\n#include <linux/magic.h>\n",
    "drivers/drbd/drbd.c": '#include "api.h"\n#define NAME "drbd.h or so"\n',
    "include/linux/magic.h": "#include MAGIC_FILE\n",
    "include/linux/genl.h": "",
    "include/linux/kconfig.h": "",
    "Makefile": "USER :=\t-include $(srctree)/include/linux/kconfig.h\n-include rules\n",
    "tools/x.c": "#include <linux/fs.h>\n",
    "arch/arm64/kernel/x.c": "#include <linux/fs.h>\n",
}
GENERATED = {"arch/x86/include/generated/asm/xor.h": "#include <asm-generic/xor.h>\n"}


def made(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.fixture
def index(tmp_path: Path) -> IncludeIndex:
    found = scan(made(tmp_path / "source", TREE), made(tmp_path / "build", GENERATED), "x86")
    return IncludeIndex("".join("\t".join((path, *by)) + "\n" for path, by in found.items()))


CLOSURES = {
    "include/linux/list.h": {
        "include/linux/fs.h",
        "fs/inode.c",
        "fs/ext4/ext4.h",  # in an #if that is never true: an over-approximation
        "fs/ext4/super.c",
    },
    "arch/x86/include/asm/page.h": {"include/linux/fs.h", "fs/inode.c"},
    "arch/arm64/include/asm/page.h": set(),
    "fs/internal.h": {"fs/inode.c", "fs/ext4/ext4.h", "fs/ext4/super.c"},
    "mm/internal.h": {"mm/slub.c"},
    "fs/ext4/parts.c": {"fs/ext4/super.c"},
    "drivers/gpu/inc/reg.h": {"drivers/gpu/core/gpu.c"},
    "include/asm-generic/xor.h": {*GENERATED, "include/linux/fs.h", "fs/inode.c"},
    "fs/inode.c": set(),
    "include/linux/genl.h": {"drivers/drbd/api.h", "drivers/drbd/drbd.c"},
    "include/linux/kconfig.h": {
        name
        for name in TREE
        if name.endswith(".c") and not name.startswith(("tools/", "arch/arm64/"))
    }
    | {"fs/ext4/super.c"},
}


@pytest.mark.parametrize("path", CLOSURES)
def test_closures(index: IncludeIndex, path: str) -> None:
    assert index.closure([path]) == CLOSURES[path]


def test_a_circle_ends(tmp_path: Path) -> None:
    source = made(tmp_path, {"a.h": '#include "b.h"\n', "b.h": '#include "a.h"\n'})
    found = scan(source, tmp_path / "none", "x86")
    index = IncludeIndex("".join("\t".join((path, *by)) + "\n" for path, by in found.items()))
    assert index.closure(["a.h"]) == {"a.h", "b.h"}
