# SPDX-License-Identifier: GPL-2.0-or-later
"""The Debian packages, built; and what Debian 12's own libraries build with them."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from pathlib import Path

import pytest
from tests.documents import validate
from tests.releases import RELEASE

from livegraft.run import run

pytestmark = pytest.mark.build

ROOT = Path(__file__).parents[2]
LARGEST = 300_000
"""Bytes of the runtime's package."""

PYTHON = "/usr/bin/python3"
"""Debian's, which sees Debian's libraries."""


def make(out: Path, **environment: str) -> dict[str, Path]:
    """Build the packages; lintian has looked at them. By name."""
    done = subprocess.run(
        [ROOT / "setup/make-deb.sh"],
        env=os.environ | {"LIVEGRAFT_OUT": str(out)} | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return {path.name.partition("_")[0]: path for path in out.glob("*.deb")}


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return make(tmp_path_factory.mktemp("deb") / "out")


@pytest.fixture(scope="module")
def unpacked(packages: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both packages in a folder."""
    folder = tmp_path_factory.mktemp("unpacked")
    for path in packages.values():
        run(["dpkg-deb", "-x", path, folder])
    return folder


def field(package: Path, name: str) -> set[str]:
    """A field of a package, as a set."""
    found = run(["dpkg-deb", "-f", package, name]).stdout.strip()
    return {each.strip() for each in found.split(",")} if found else set()


def test_the_runtime_is_small_and_needs_little(packages: dict[str, Path]) -> None:
    assert set(packages) == {"livegraft", "livegraft-runtime"}
    runtime = packages["livegraft-runtime"]
    assert runtime.stat().st_size <= LARGEST
    assert field(runtime, "Depends") == {"openssl", "python3 (>= 3.11)", "python3:any"}
    assert field(runtime, "Recommends") | field(runtime, "Pre-Depends") == set()
    (version,) = field(runtime, "Version")
    assert f"livegraft-runtime (= {version})" in field(packages["livegraft"], "Depends")


def test_debian_has_all_that_they_need(packages: dict[str, Path], tmp_path: Path) -> None:
    """On a machine that has nothing yet, by the archive that apt knows here."""
    status = tmp_path / "status"
    status.touch()
    options = ("-o", f"Dir::State::status={status}", "-o", "APT::Install-Recommends=false")
    done = run(["apt-get", "--simulate", *options, "install", *packages.values()]).stdout
    assert "Conf livegraft (" in done
    alone = run(["apt-get", "--simulate", *options, "install", packages["livegraft-runtime"]])
    assert "Conf livegraft-runtime (" in alone.stdout
    assert "numpy" not in alone.stdout


def test_the_runtime_s_files(packages: dict[str, Path]) -> None:
    listed = run(["dpkg-deb", "-c", packages["livegraft-runtime"]]).stdout.splitlines()
    files = {line.split()[5].removeprefix(".") for line in listed}
    assert files >= {
        "/etc/livegraft/livegraft.conf",
        "/etc/livegraft/trusted.d/",
        "/etc/needrestart/conf.d/livegraft.conf",
        "/lib/systemd/system/livegraft-boot.service",
        "/lib/systemd/system/livegraft-metrics.timer",
        "/lib/systemd/system/livegraft-settle.timer",
        "/usr/bin/livegraft",
        "/usr/share/bash-completion/completions/livegraft",
        "/usr/share/fish/vendor_completions.d/livegraft.fish",
        "/usr/share/man/man1/livegraft.1.gz",
        "/usr/share/zsh/vendor-completions/_livegraft",
    }
    # Whoever unpacks it: all is root's, and nobody else may write it.
    assert {line.split()[1] for line in listed} == {"root/root"}
    assert [line for line in listed if "w" in line[5:10] and line[0] != "l"] == []
    whole = run(["dpkg-deb", "-c", packages["livegraft"]]).stdout
    assert "./usr/src/livegraft-engine-1/dkms.conf" in whole


def test_the_configuration_is_understood(unpacked: Path) -> None:
    from livegraft.runtime.configuration import Configuration, parse

    data = (unpacked / "etc/livegraft/livegraft.conf").read_bytes()
    assert parse(data, "livegraft.conf") == Configuration()
    # Each of its lines, too, when the mark is taken away.
    assert parse(data.replace(b"\n#en", b"\nen").replace(b"\n#re", b"\nre"), "x") == Configuration(
        required_signers=("author", "reviewer")
    )


@pytest.mark.soak
def test_the_same_source_makes_the_same_bytes(packages: dict[str, Path], tmp_path: Path) -> None:
    again = make(tmp_path / "elsewhere" / "out", TZ="Asia/Tokyo", LANG="de_DE.UTF-8")
    for name, path in packages.items():
        assert sha256(again[name]) == sha256(path), name


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def command(unpacked: Path, *words: str | Path) -> subprocess.CompletedProcess[str]:
    """The command of the packages with Debian's Python and Debian's libraries."""
    code = (
        f"import sys; sys.path.insert(0, {str(unpacked / 'usr/lib/python3/dist-packages')!r}); "
        "from livegraft.cli.main import main; sys.exit(main())"
    )
    return subprocess.run(
        [PYTHON, "-I", "-c", code, *words], capture_output=True, text=True, check=False
    )


def test_its_version(packages: dict[str, Path], unpacked: Path) -> None:
    (version,) = field(packages["livegraft"], "Version")
    assert command(unpacked, "--version").stdout == f"livegraft {version}\n"


@pytest.mark.soak
def test_debian_s_libraries_build_the_same_patch(unpacked: Path, tmp_path: Path) -> None:
    """Older ones than those of the lock file, and to the byte the same module, both ways."""
    made = {}
    for which in ("debian", "own"):
        (tmp_path / which).mkdir()
        words = ("build", ROOT / "demo/sample.patch", "-k", RELEASE, "--method", "both", "--json")
        if which == "debian":
            done = command(unpacked, *words, "-o", tmp_path / which / "sample.ko")
        else:
            own: list[str | Path] = [ROOT / ".venv/bin/python", "-m", "livegraft.cli.main", *words]
            done = subprocess.run(
                [*own, "-o", tmp_path / which / "sample.ko"],
                capture_output=True,
                text=True,
                check=False,
            )
        assert done.returncode == 0, done.stderr
        validate("build", json.loads(done.stdout))
        made[which] = {each.name: sha256(each) for each in sorted((tmp_path / which).glob("*.ko"))}
    assert made["debian"] == made["own"]
    assert len(made["own"]) == 2
