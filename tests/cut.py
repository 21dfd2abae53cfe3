# SPDX-License-Identifier: GPL-2.0-or-later
"""Cutting small C texts for the tests: the real preprocessor, the real parser, no kernel."""

from __future__ import annotations

import subprocess
from collections.abc import Collection, Mapping

from livegraft.extract.emission import Text, header_name
from livegraft.extract.preprocessed import Preprocessed
from livegraft.extract.selection import Wanted
from livegraft.extract.slice import Slice, slice_unit

UNIT = "dir/unit.c"


def preprocess(cut_out: Text | str) -> Preprocessed:
    """What the preprocessor makes of a text; livegraft.h, which needs a kernel, is left out."""
    text = cut_out if isinstance(cut_out, str) else cut_out.main
    if isinstance(cut_out, Text) and cut_out.header:
        lines = f'# 1 "header.h" 1\n{cut_out.header}\n# 4 "<stdin>" 2\n'
        text = text.replace(f'#include "{header_name(UNIT)}"\n', lines)
    text = text.replace("#include <livegraft.h>", "").split("LIVEGRAFT_PATCHES(")[0]
    done = subprocess.run(
        ["gcc", "-E", "-x", "c", "-"], input=text, capture_output=True, text=True, check=True
    )
    return Preprocessed(done.stdout, "<stdin>", UNIT)


def cut(
    text: str,
    *patched: str,
    changed: Collection[str] = (),
    shared: Collection[str] = (),
    running: Collection[str] = (),
    referred: Mapping[str, Collection[str]] | None = None,
) -> Slice:
    """Cut functions out of a text.

    Args:
        referred: what a patched function's code refers to; by default all of `running`.
    """
    known = {name: set(running) for name in patched} if referred is None else referred
    wanted = Wanted(set(patched), set(shared), {*patched, *changed}, set(running), known)
    return slice_unit(UNIT, text, preprocess(text), wanted, preprocess, print)


def kept(text: str, *patched: str, **more: Collection[str]) -> str:
    """The cut text without white space at the ends of lines and without its marks."""
    written = cut(text, *patched, **more).text.main  # type: ignore[arg-type]
    return written.split("#include <livegraft.h>")[0]
