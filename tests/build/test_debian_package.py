# SPDX-License-Identifier: GPL-2.0-or-later
"""``livegraft package``: a live patch as a Debian package."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.documents import validate

from livegraft.errors import ModuleError
from livegraft.module import debian_package
from livegraft.module.debian_package import Choices
from livegraft.module.inspect import inspect_bytes
from livegraft.run import run

ROOT = Path(__file__).parents[2]
PATCH = ROOT / "tests/data/payload-abi1.ko"
MAINTAINER = {"DEBFULLNAME": "Ann Author", "DEBEMAIL": "ann@livegraft.example"}


def package(patch: Path, folder: Path, *options: str, **environment: str) -> tuple[int, Any]:
    """Run the verb: its status and its document."""
    words: list[str | Path] = ["package", patch, "-o", folder, "--json", *options]
    done = subprocess.run(
        [sys.executable, "-m", "livegraft.cli.main", *words],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | MAINTAINER | environment,
    )
    document = json.loads(done.stdout)
    validate("package", document)
    return done.returncode, document


def script(path: Path, name: str) -> str:
    """A control file of a package."""
    folder = path.parent / f"{path.stem}-control"
    run(["dpkg-deb", "--control", path, folder])
    text = (folder / name).read_text()
    shutil.rmtree(folder)
    return text


@pytest.fixture
def made(tmp_path: Path) -> dict[str, Any]:
    status, document = package(PATCH, tmp_path)
    assert status == 0, document
    return dict(document)


def test_the_package(made: dict[str, Any], tmp_path: Path) -> None:
    path = Path(made["path"])
    release = made["release"]
    assert path.name == f"{made['package']}_1_amd64.deb"
    assert re.fullmatch(rf"livegraft-patch-[a-z0-9-]+-{re.escape(release)}", made["package"])
    assert made["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    fields = run(["dpkg-deb", "-f", path]).stdout
    image = f"linux-image-{release} (= "
    assert f"Depends: {image}" in fields
    assert "livegraft-runtime" in fields
    assert "Maintainer: Ann Author <ann@livegraft.example>" in fields
    run(["dpkg-deb", "-x", path, tmp_path / "x"])
    inside = tmp_path / f"x/usr/lib/livegraft/{release}/{made['patch']}.ko"
    assert inside.read_bytes() == PATCH.read_bytes()


def test_lintian_finds_nothing(made: dict[str, Any]) -> None:
    done = subprocess.run(
        ["lintian", "--allow-root", "--fail-on", "error,warning", made["path"]],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("name", ["postinst", "prerm"])
def test_the_scripts_are_shell(made: dict[str, Any], name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(script(Path(made["path"]), name))
    run(["dash", "-n", tmp_path / name])
    if shutil.which("shellcheck"):
        run(["shellcheck", tmp_path / name])


def test_what_the_scripts_do(made: dict[str, Any], tmp_path: Path) -> None:
    now = script(Path(made["path"]), "postinst")
    assert f"livegraft install --quiet /usr/lib/livegraft/{made['release']}/" in now
    assert f"livegraft boot --quiet $settled {made['patch']};" in now
    assert "systemctl restart livegraft-settle.timer" in now
    (tmp_path / "boot").mkdir()
    options = ("--load", "boot", "--model", "hybrid", "--replace")
    status, document = package(PATCH, tmp_path / "boot", *options)
    assert (status, document["load"], document["replace"]) == (0, "boot", True)
    boot = script(Path(document["path"]), "postinst")
    assert "livegraft install --quiet --model hybrid --replace /usr/lib/livegraft/" in boot
    assert "livegraft load" not in boot and "livegraft boot" not in boot
    _, asked = package(PATCH, tmp_path / "boot", "--load", "demand", "--model", "hybrid")
    demand = script(Path(asked["path"]), "postinst")
    assert "livegraft install" not in demand and "livegraft load" not in demand
    assert 'echo "livegraft uninstall' in demand  # for what an earlier version has kept
    description = run(["dpkg-deb", "-f", asked["path"], "Description"]).stdout
    assert "asks for it: livegraft load --model hybrid /usr/lib/livegraft/" in description
    run(["dash", "-n", "-c", demand])
    for each in (made, document, asked):
        gone = script(Path(each["path"]), "prerm")
        assert "livegraft unload" in gone
        assert "livegraft uninstall" in gone


def test_the_same_patch_makes_the_same_bytes(made: dict[str, Any], tmp_path: Path) -> None:
    folder = tmp_path / "again"
    folder.mkdir()
    shutil.copy(PATCH, folder / "renamed.ko")
    status, document = package(folder / "renamed.ko", folder, TZ="Asia/Tokyo")
    assert (status, document["sha256"]) == (0, made["sha256"])
    _, document = package(PATCH, folder, SOURCE_DATE_EPOCH="1700000000")
    assert document["sha256"] != made["sha256"]
    assert "2023-11-14" in run(["dpkg-deb", "-c", document["path"]]).stdout


def test_detached_signatures_go_along(tmp_path: Path) -> None:
    shutil.copy(PATCH, tmp_path / "fix.ko")
    (tmp_path / "fix.ko.reviewer.p7s").write_bytes(b"signature")
    status, document = package(tmp_path / "fix.ko", tmp_path)
    assert status == 0
    name = f"{document['patch']}.ko.reviewer.p7s"
    assert document["signatures"] == [name]
    assert f"/{name}" in run(["dpkg-deb", "-c", document["path"]]).stdout


def test_what_is_no_patch_is_refused(tmp_path: Path) -> None:
    data = PATCH.read_bytes()
    bare = tmp_path / "bare.ko"
    run(["objcopy", "--remove-section", ".livegraft", PATCH, bare])
    cases = {"text.ko": b"text", "half.ko": data[: len(data) // 2], "bare.ko": bare.read_bytes()}
    for name, content in cases.items():
        (tmp_path / name).write_bytes(content)
        status, document = package(tmp_path / name, tmp_path)
        assert (status, document["error"]["kind"]) == (1, "PatchError"), name
    status, document = package(tmp_path / "absent.ko", tmp_path)
    assert (status, document["error"]["kind"]) == (2, "UsageError")
    # Its manifest says something else than its code: a production machine sees the first as well.
    lies = {
        "PatchError": data.replace(b'"state":"changed"', b'"state":"removed"'),
        "ModuleError": re.sub(rb'("sha256":")([0-9a-f])', rb"\g<1>x", data),
    }
    for kind, content in lies.items():
        assert content != data
        (tmp_path / "lies.ko").write_bytes(content)
        status, document = package(tmp_path / "lies.ko", tmp_path)
        assert (status, document["error"]["kind"]) == (1, kind)
    assert list(tmp_path.glob("*.deb")) == []


@pytest.mark.parametrize(
    "options",
    [
        ("--package-version", "one"),
        ("--package-version", "1:1"),
        ("--maintainer", "nobody"),
        ("--maintainer", "a\nDepends: x <a@b>"),
    ],
)
def test_what_is_no_version_or_maintainer_is_refused(
    tmp_path: Path, options: tuple[str, str]
) -> None:
    status, document = package(PATCH, tmp_path, *options)
    assert (status, document["error"]["kind"]) == (2, "UsageError")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["x$(reboot)", "x\nDepends", "x y"])
def test_a_name_that_a_shell_would_read_is_refused(tmp_path: Path, name: str) -> None:
    """Payload and manifest take names that are no words of a shell script."""
    data = PATCH.read_bytes()
    found = replace(inspect_bytes(data, "fix.ko"), name=name)
    with pytest.raises(ModuleError, match="impossible name"):
        debian_package.make(found, data, (), tmp_path, Choices())
    assert list(tmp_path.iterdir()) == []
