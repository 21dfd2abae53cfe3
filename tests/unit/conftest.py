# SPDX-License-Identifier: GPL-2.0-or-later
"""People with keys, made once: who vouches for patches in these tests."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.keys import Authority, Person, person
from tests.machine import Machine, patch_bytes

from livegraft.runtime.installing import Kept, install
from livegraft.trust.store import Store


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("keys")


@pytest.fixture(scope="session")
def author(keys: Path) -> Person:
    return person(keys, "author")


@pytest.fixture(scope="session")
def reviewer(keys: Path) -> Person:
    return person(keys, "reviewer", "rsa:2048")


@pytest.fixture(scope="session")
def stranger(keys: Path) -> Person:
    return person(keys, "stranger")


@pytest.fixture
def trusting(tmp_path: Path) -> Callable[..., Store]:
    """A store of these people's certificates."""

    def make(*people: Person | Authority) -> Store:
        folder = tmp_path / "livegraft/trusted.d"
        folder.mkdir(parents=True)
        for each in people:
            shutil.copy(each.cert, folder)
        return Store.read(folder)

    return make


@pytest.fixture
def root(tmp_path: Path, author: Person, reviewer: Person) -> Path:
    """A machine that trusts the author and the reviewer."""
    folder = tmp_path / "root/etc/livegraft/trusted.d"
    folder.mkdir(parents=True)
    for each in (author, reviewer):
        shutil.copy(each.cert, folder)
    return tmp_path / "root"


@pytest.fixture
def machine(root: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """The same, with all that the runtime looks at when it keeps patches."""
    return Machine(root, monkeypatch)


@pytest.fixture
def put(machine: Machine, tmp_path: Path) -> Callable[..., Kept]:
    """Install a patch of these bytes."""

    def run(data: bytes | None = None, **options: Any) -> Kept:
        path = tmp_path / "fix.ko"
        path.write_bytes(patch_bytes() if data is None else data)
        return install(path, root=machine.root, **options)

    return run
