# SPDX-License-Identifier: GPL-2.0-or-later
"""docs/example is what ``livegraft extract`` writes."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from livegraft.errors import PackageMissing
from livegraft.kernel.kernel import prepare

pytestmark = pytest.mark.build

DOCS = Path(__file__).parents[2] / "docs"


def test_the_example_is_as_the_command_writes_it(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("build_example", DOCS / "build_example.py")
    assert spec is not None and spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
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
