# SPDX-License-Identifier: GPL-2.0-or-later
"""Build a live patch again, from what its manifest says, and compare the bytes."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from livegraft import pipeline
from livegraft.cli import target
from livegraft.cli.verb import Context
from livegraft.errors import NotRebuilt
from livegraft.fix.fix import Fix
from livegraft.kernel.image import open_image
from livegraft.module.advisory import Advisory
from livegraft.module.difference import first_difference
from livegraft.trust import appended

if TYPE_CHECKING:
    from livegraft.extract.folder import Folder
    from livegraft.kernel.kernel import Kernel


def rebuild(
    arguments: argparse.Namespace, data: bytes, manifest: Mapping[str, Any], context: Context
) -> dict[str, object]:
    """Build it again and compare.

    Args:
        arguments: with ``patch``, ``fix`` and what :func:`livegraft.cli.target.kernel` takes.
        data: the patch's whole file.
        manifest: what it says of itself.
        context: the cache and the progress.

    Returns:
        The member ``rebuilt`` of the document.

    Raises:
        NotRebuilt: the fix or the kernel that are here are not those that it was made of.
        LivegraftError: the fix cannot be built; all that ``build`` raises.
    """
    subject = str(arguments.patch)
    release = manifest["kernel"]["release"]
    folder = target.extracted(arguments.fix, release)
    fixes = target.files(folder.fixes if folder else arguments.fix, "a unified diff")
    _check_fix(subject, fixes, folder, manifest)
    kernel = target.kernel(arguments, context, release)
    _check_kernel(subject, kernel, manifest, context)
    fix, proof = manifest["fix"], manifest["proof"] is True
    with tempfile.TemporaryDirectory(prefix="livegraft-rebuild-") as place:
        outcome = pipeline.check(
            fixes,
            kernel,
            proof=proof,
            method=pipeline.Method(manifest["method"]),
            folder=folder,
            progress=context.progress,
        )
        built = pipeline.make(
            replace(outcome, advisory=Advisory(tuple(fix["cves"]), tuple(fix["upstream"]))),
            kernel,
            output=Path(place) / "rebuilt.ko",
            proof=proof,
            name=manifest["name"],
            progress=context.progress,
        )
        made = built.path.read_bytes()
    content, _ = appended.split(data, subject)
    different = first_difference(content, made)
    return {
        "equal": different is None,
        "difference": None if different is None else different.as_json(),
        "versions": _versions(manifest, built.inspection.manifest),
    }


def _check_fix(
    subject: str, fixes: list[Path], folder: Folder | None, manifest: Mapping[str, Any]
) -> None:
    wanted, found = manifest["fix"]["sha256"], Fix.load(fixes).sha256
    if found != wanted:
        problem = f"was made of a fix of SHA-256 {wanted}, and this one is {found}"
        remedy = "give the very files that it was built from, in the same order"
        raise NotRebuilt(subject, problem, remedy)
    if manifest["edited"] and (folder is None or manifest["method"] == "compare"):
        problem = f"was built of text that was edited: {', '.join(manifest['edited'])}"
        remedy = "name the edited folder with --fix"
        if folder is not None:
            remedy = "verify the second module, OUT.extract.ko, with that folder"
        raise NotRebuilt(subject, problem, remedy)


def _check_kernel(
    subject: str, kernel: Kernel, manifest: Mapping[str, Any], context: Context
) -> None:
    says = manifest["kernel"]
    remedy = "prepare the kernel from the packages that it was built from (--packages, --cache)"
    if kernel.source_version != says["source_version"]:
        problem = (
            f"was built from source {says['source_version']}, and {kernel.release} is "
            f"{kernel.source_version} here"
        )
        raise NotRebuilt(subject, problem, remedy)
    build_id = open_image(kernel, context.progress).build_id
    if build_id != says["build_id"]:
        problem = f"was built for the kernel {says['build_id']}, and the one here is {build_id}"
        raise NotRebuilt(subject, problem, remedy)


def _versions(manifest: Mapping[str, Any], here: Mapping[str, Any]) -> list[dict[str, str]]:
    """What built it then and does now, where that differs: a reason for other bytes."""
    pairs = (
        ("livegraft", manifest["tool"]["version"], here["tool"]["version"]),
        ("compiler", manifest["compiler"], here["compiler"]),
    )
    return [{"tool": tool, "then": then, "now": now} for tool, then, now in pairs if then != now]
