# SPDX-License-Identifier: GPL-2.0-or-later
"""Prepared kernels for the tests that run the real compiler on real kernel source."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from tests.releases import RELEASES

from livegraft.kernel.kernel import Kernel, prepare

Edits = Mapping[str, tuple[str, str] | str]
"""File -> (text, what takes its place), or a text for the file's end."""


@pytest.fixture(scope="session")
def kernel() -> Kernel:
    """A kernel of the first series, prepared in the cache (at once when it is there)."""
    return prepare(RELEASES[0])


@pytest.fixture(scope="session", params=RELEASES)
def any_kernel(request: pytest.FixtureRequest) -> Kernel:
    """Each of the kernels in turn."""
    return prepare(str(request.param))


@pytest.fixture(scope="session")
def fix_of(kernel: Kernel, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Edits], Path]:
    """Makes a fix: edits of files of the kernel's source become a unified diff."""

    def make(edits: Edits) -> Path:
        pieces: list[str] = []
        for path, edit in edits.items():
            before = (kernel.source / path).read_text("utf-8")
            if isinstance(edit, str):
                after = before + edit
            else:
                assert before.count(edit[0]) == 1, f"{path} has {edit[0]!r} not once"
                after = before.replace(*edit)
            old, new = (text.splitlines(keepends=True) for text in (before, after))
            pieces += difflib.unified_diff(old, new, f"a/{path}", f"b/{path}")
        fix = tmp_path_factory.mktemp("fix") / "fix.patch"
        fix.write_text("".join(pieces), "utf-8")
        return fix

    return make
