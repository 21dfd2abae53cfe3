# SPDX-License-Identifier: GPL-2.0-or-later
"""Module.symvers."""

from __future__ import annotations

import pytest

from livegraft.errors import ImageError
from livegraft.kernel.symvers import Export, parse_symvers

TEXT = (
    "0x4c9d28b0\tphys_base\tvmlinux\tEXPORT_SYMBOL\t\n"
    "0xb4077c34\tjbd2_journal_start\tfs/jbd2/jbd2\tEXPORT_SYMBOL_GPL\t\n"
    "0x00000000\tdma_buf_get\tdrivers/dma-buf/dma-buf\tEXPORT_SYMBOL_GPL\tDMA_BUF\n"
)


def test_exports_tell_their_owner() -> None:
    symvers = parse_symvers(TEXT, "Module.symvers")
    assert len(symvers) == 3
    assert symvers.get("phys_base") == Export(0x4C9D28B0, "vmlinux", "")
    assert symvers.get("jbd2_journal_start") == Export(0xB4077C34, "jbd2", "")
    assert symvers.get("dma_buf_get") == Export(0, "dma_buf", "DMA_BUF")
    assert symvers.get("vmlinux") is None


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("0x4c9d28b0\tname\tvmlinux\tEXPORT_SYMBOL\n", ":4: is no line"),
        ("0x4c9d28b0\tname\tvmlinux\tEXPORT_SYMBOL_FUTURE\t\n", ":4: is no line"),
        ("4c9d28b0\tname\tvmlinux\tEXPORT_SYMBOL\t\n", ":4: is no line"),
        ("0x4c9d28b0\tname\tvmlinux\tEXPORT_SYMBOL\t", ":4: is no line"),
        ("0x4c9d28b0\tphys_base\tdrivers/x\tEXPORT_SYMBOL\t\n", "a second time"),
    ],
)
def test_a_line_of_another_form_is_refused(line: str, problem: str) -> None:
    with pytest.raises(ImageError, match=problem):
        parse_symvers(TEXT + line, "Module.symvers")
