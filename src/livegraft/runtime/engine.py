# SPDX-License-Identifier: GPL-2.0-or-later
"""The models that need livegraft's engine module: ``hybrid``, ``stop`` and ``task``.

The engine does not exist yet. The payload knows how to find it (kmod/include/livegraft_abi.h) and
answers -ENODEV without it; here that is said before the kernel is asked, and nothing changes.
"""

from __future__ import annotations

from typing import NoReturn

from livegraft.errors import PatchError
from livegraft.runtime.model import Model, ModelName, Wait
from livegraft.runtime.payload import Payload


class EngineModel(Model):
    """A model of the engine; ``name`` says which."""

    def __init__(self, name: ModelName) -> None:
        self.name = name

    def require(self) -> NoReturn:
        raise PatchError(
            f"model {self.name}",
            "needs the engine module, which does not exist yet; nothing was changed",
            "use --model native, the kernel's own core",
        )

    def insert(self, payload: Payload) -> None:
        self.require()

    def wait(self, name: str, seconds: float) -> Wait:
        self.require()

    def turn_off(self, name: str, seconds: float) -> None:
        self.require()

    def turn_on_again(self, name: str) -> bool:
        self.require()

    def remove(self, name: str) -> None:
        self.require()
