# SPDX-License-Identifier: GPL-2.0-or-later
"""The object files of a fix's units, kept for those who look at them afterwards."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from livegraft.fix.compiled import Compiled
from livegraft.kbuild.compile import Object
from livegraft.kbuild.objects import Unit


@dataclass(frozen=True, slots=True)
class KeptObjects:
    """The object files of a unit of a fix.

    Args:
        unit: the translation unit.
        object: the object that it is linked into.
        plain: unpatched, compiled as the distribution did.
        patched: with the fix, a section per function and variable.
        extracted: of what was cut out of the patched unit; None if nothing was.
    """

    unit: str
    object: str
    plain: Path
    patched: Path
    extracted: Path | None = None


def kept_objects(folder: Path) -> list[KeptObjects]:
    """What :func:`keep_objects` kept in a folder."""
    listed = json.loads((folder / "objects.json").read_text("utf-8"))
    return [
        KeptObjects(
            one["unit"],
            one["object"],
            Path(one["plain"]),
            folder / one["patched"],
            folder / one["extracted"] if one["extracted"] else None,
        )
        for one in listed
    ]


def forget_objects(folder: Path) -> None:
    """Forget what an earlier run kept in a folder."""
    (folder / "objects.json").unlink(missing_ok=True)


def keep_objects(plain: Mapping[Unit, Object], compiled: Sequence[Compiled], folder: Path) -> None:
    """Keep the objects of what has to be proved, beside those that were kept there before.

    Args:
        plain: by unit, as it was shipped.
        compiled: the units, compiled for the comparison.
    """
    folder.mkdir(parents=True, exist_ok=True)
    index = folder / "objects.json"
    listed = json.loads(index.read_text("utf-8")) if index.is_file() else []
    for each in compiled:
        if each.unit in plain:
            present = [path for path in (each.after, each.extracted) if path.is_file()]
            for path in present:
                shutil.copyfile(path, folder / path.name)
            listed.append(
                {
                    "unit": each.unit.path,
                    "object": each.unit.object,
                    "plain": str(plain[each.unit].path),
                    "patched": each.after.name,
                    "extracted": each.extracted.name if each.extracted in present else "",
                }
            )
    index.write_text(json.dumps(listed), "utf-8")
