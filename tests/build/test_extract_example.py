# SPDX-License-Identifier: GPL-2.0-or-later
"""docs/example is what ``livegraft extract`` writes."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.documents import DOCS, script

from livegraft.errors import PackageMissing
from livegraft.kernel.kernel import prepare

pytestmark = pytest.mark.build


def test_the_example_is_as_the_command_writes_it(tmp_path: Path) -> None:
    example = script("build_example")
    try:
        prepare(example.KERNEL)
    except PackageMissing as error:
        pytest.skip(f"{error.subject}: the archive has dropped it, and the cache lacks it")
    assert example.extract(tmp_path / "example") == 0
    written, kept = (
        {each.name: each.read_bytes() for each in folder.iterdir()}
        for folder in (tmp_path / "example", DOCS / "example")
    )
    assert kept == written, "run: make example"
