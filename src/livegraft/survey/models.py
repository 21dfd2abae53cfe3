# SPDX-License-Identifier: GPL-2.0-or-later
"""Which consistency model takes which live patch: each is loaded and unloaded under each."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from livegraft.changeset import VMLINUX
from livegraft.errors import LostGuest, UsageError
from livegraft.kernel.kernel import Kernel
from livegraft.lab.guest import GuestCommandFailed
from livegraft.module.delivery import write_whole
from livegraft.module.engine import NAME, build_engine
from livegraft.progress import SILENT, Progress
from livegraft.runtime.payload import Payload
from livegraft.survey.guests import Inhabited, KeptGuest

FOLDER = "fixes"
PATCH_SECONDS = 240.0

Found = dict[str, Any]

_TRY = """
import json, sys
from pathlib import Path
from livegraft.errors import LivegraftError
from livegraft.runtime import load, unload
path, name, model = sys.argv[1:]
said = ""
try:
    load(Path(path), model=model)
    unload(name)
except LivegraftError as error:
    said = f"{error.subject}: {error.problem}"
finally:
    Path(path).unlink()
print(json.dumps(said))
"""


def patches_in(folder: Path) -> list[Payload]:
    """The live patches of a folder, or of a survey's.

    Raises:
        UsageError: there are none.
        PatchError: one of them is no live patch that livegraft has built.
    """
    place = folder / "modules" if (folder / "modules").is_dir() else folder
    found = [Payload.read(path, foreign=False) for path in sorted(place.glob("*.ko"))]
    if not found:
        remedy = "name the folder of a survey, or one with live patches (.ko)"
        raise UsageError(str(folder), "holds no live patch", remedy)
    return found


def take(
    kernel: Kernel,
    patches: Sequence[Payload],
    models: Sequence[str],
    folder: Path,
    progress: Progress = SILENT,
) -> list[Found]:
    """Try patches under each model, in guests that many of them share.

    Args:
        kernel: the prepared kernel that they are for.
        patches: the patches.
        models: the models.
        folder: keeps what was found of each model.
        progress: gets the step ``try the fixes``, in patches times models.

    Returns:
        for each model ``kernel``, ``model``, ``taken`` (how many) and ``refused``, each of those
        with its ``patch`` and a ``reason``.
    """
    digest = hashlib.sha256(b"".join(hashlib.sha256(p.data).digest() for p in patches)).hexdigest()
    found = []
    with progress.step("try the fixes", len(patches) * len(models)) as step:
        for model in models:
            path = folder / FOLDER / kernel.release / f"{model}.json"
            known = _kept(path, digest)
            if known is None:
                known = {"digest": digest, "refused": []}
                kept = KeptGuest(kernel)
                try:
                    for patch in patches:
                        step.say(f"{model} {patch.name}")
                        if reason := _try(kept, kernel, patch, model):
                            known["refused"].append({"patch": patch.name, "reason": reason})
                        step.advance()
                finally:
                    kept.give_up()
                path.parent.mkdir(parents=True, exist_ok=True)
                write_whole(path, (json.dumps(known) + "\n").encode())
            else:
                step.advance(len(patches))
            refused = known["refused"]
            taken = len(patches) - len(refused)
            found.append(
                {"kernel": kernel.release, "model": model, "taken": taken, "refused": refused}
            )
    return found


def _kept(path: Path, digest: str) -> Found | None:
    try:
        known: Found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return known if known.get("digest") == digest else None


def _try(kept: KeptGuest, kernel: Kernel, patch: Payload, model: str) -> str:
    """Why a model does not take a patch; empty if it does."""
    said = ""
    try:
        here = kept.up()
        if model != "native":
            _bring_engine(here, kernel)
        for module in sorted({owner for owner, _ in patch.functions} - {VMLINUX}):
            here.bring(module)
        path = f"/root/{patch.name}.ko"
        here.guest.put(path, patch.data)
        done = here.guest.python(_TRY, path, patch.name, model, timeout=PATCH_SECONDS)
        if done.timed_out:
            said = f"no answer after {PATCH_SECONDS:g} s"
        elif done.status != 0:
            said = (done.stderr.decode("utf-8", "replace").splitlines() or ["no answer"])[-1]
        else:
            said = json.loads(done.stdout)
    except LostGuest as error:
        said = f"the guest was lost: {error.reason}"
    except GuestCommandFailed as error:
        said = f"{error.subject}: {error.problem}"
    if said:
        kept.give_up()  # what it left there may be in the way of the next one
    return said


def _bring_engine(here: Inhabited, kernel: Kernel) -> None:
    if here.guest.run(["test", "-d", f"/sys/module/{NAME}"]).status != 0:
        here.guest.insert(NAME, build_engine(kernel).read_bytes())
