# SPDX-License-Identifier: GPL-2.0-or-later
"""The table that is decoded from the image is the one that the booted image shows."""

from __future__ import annotations

import pytest
from tests.releases import RELEASES

from livegraft.kernel.image import open_image
from livegraft.kernel.kallsyms import open_kallsyms
from livegraft.kernel.kernel import prepare
from livegraft.kernel.modulefile import open_module
from livegraft.lab.boot import boot

pytestmark = pytest.mark.guest


@pytest.mark.parametrize("release", RELEASES)
def test_symbols_of_kernel_and_module_are_those_of_the_guest(release: str) -> None:
    kernel = prepare(release)
    with boot(kernel.vmlinuz, kernel.modules, load=["ext4"], cmdline="nokaslr") as guest:
        text = guest.check(["cat", "/proc/kallsyms"]).stdout.decode()
    rows = [line.split() for line in text.splitlines()]
    seen = [(int(row[0], 16), row[1], row[2]) for row in rows if len(row) == 3]
    assert list(open_kallsyms(kernel, open_image(kernel)).all()) == seen

    module = open_module(kernel, "ext4")
    names = [row[2] for row in rows if row[3:] == ["[ext4]"]]
    stay = [
        symbol.name
        for symbol in module.object.symbols
        if symbol.name and any(entry.stays for entry in module.symbols.entries(symbol.name))
    ]
    # The order of each name among its own kind is what a position counts.
    assert names == stay
