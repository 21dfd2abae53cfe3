# SPDX-License-Identifier: GPL-2.0-or-later
"""The fuzzer of `make fuzz`: atheris, on :mod:`tests.fuzz.objects`. Arguments are libFuzzer's."""

from __future__ import annotations

import sys
from typing import Any


def main(arguments: list[str]) -> None:
    """Fuzz until libFuzzer's limits are reached."""
    import atheris  # type: ignore[import-untyped, unused-ignore]

    fuzzer: Any = atheris
    with fuzzer.instrument_imports(include=["livegraft"]):
        from tests.fuzz import objects

    def mutated(data: bytes, size: int, seed: int) -> bytes:
        return objects.mutate(data, seed, lambda old: bytes(fuzzer.Mutate(old, size)))[:size]

    fuzzer.Setup(arguments, objects.check, custom_mutator=mutated)
    fuzzer.Fuzz()


if __name__ == "__main__":
    main(sys.argv)
