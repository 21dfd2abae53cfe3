# SPDX-License-Identifier: GPL-2.0-or-later
"""The engine's module: made once, the same from everywhere, by DKMS too, and nothing unexpected."""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from kmod import relocate
from tests.documents import validate

from livegraft.cache import Cache
from livegraft.cli.main import main
from livegraft.elf import object as elf
from livegraft.elf.header import SHN_LIVEPATCH
from livegraft.errors import ModuleError
from livegraft.kernel.kernel import Kernel
from livegraft.module import engine
from livegraft.module.livepatch_relocations import SYMBOL_PREFIX

pytestmark = pytest.mark.build

ROOT = Path(__file__).parents[2]
KMOD = ROOT / "kmod"


@pytest.fixture(scope="module")
def found() -> dict[str, bytes]:
    """The sources, to be changed in a copy."""
    return engine.sources()


def made(folder: Path, found: dict[str, bytes], kernel: Kernel) -> bytes:
    folder.mkdir()
    return engine.make(folder, found, kernel).read_bytes()


def test_it_needs_what_is_listed_and_is_not_traced(any_kernel: Kernel) -> None:
    module = elf.parse(engine.build_engine(any_kernel).read_bytes())
    names = {section.name for section in module.sections}
    assert not {"__mcount_loc", ".debug_info", ".BTF"} & names
    assert "__fentry__" not in {symbol.name for symbol in module.symbols}
    modinfo = module.sections[module.section_number(".modinfo") or 0].data
    assert b"\0livepatch=" not in modinfo
    needed = [s.name for s in module.symbols if s.section == SHN_LIVEPATCH]
    listed = relocate.listed((KMOD / "unexported.txt").read_text())
    assert sorted(needed) == sorted(f"{SYMBOL_PREFIX}vmlinux.{name},0" for name in listed)


def test_it_is_made_once_and_the_same_from_whatever_folder(
    newest_kernel: Kernel,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    found: dict[str, bytes],
) -> None:
    """Another source is another module; the same one is found again."""
    built = engine.build_engine(newest_kernel).read_bytes()
    assert str(newest_kernel.cache.root).encode() not in built
    fresh = dataclasses.replace(newest_kernel, cache=Cache(tmp_path / "another-cache"))
    first = engine.build_engine(fresh)
    assert first.read_bytes() == built
    with monkeypatch.context() as patched:
        patched.setattr(engine, "make", lambda *_: pytest.fail("it was made again"))
        assert engine.build_engine(fresh) == first
        patched.setattr(engine, "sources", lambda: found | {"core.c": found["core.c"] + b"\n"})
        with pytest.raises(pytest.fail.Exception, match="made again"):
            engine.build_engine(fresh)
    assert [path.name for path in first.parents[1].rglob("*.ko*")] == ["livegraft_engine.ko"]


def test_a_warning_is_an_error(kernel: Kernel, tmp_path: Path, found: dict[str, bytes]) -> None:
    found = found | {"core.c": found["core.c"] + b'#warning "of mine"\n'}
    with pytest.raises(ModuleError, match=r"complains:\n(?s:.*)of mine"):
        made(tmp_path / "a", found, kernel)


def test_a_symbol_that_is_not_listed_is_an_error(
    kernel: Kernel, tmp_path: Path, found: dict[str, bytes]
) -> None:
    listed = found["unexported.txt"].replace(b"tasklist_lock\n", b"")
    assert listed != found["unexported.txt"]
    with pytest.raises(ModuleError, match="tasklist_lock: is neither exported by this kernel"):
        made(tmp_path / "a", found | {"unexported.txt": listed}, kernel)


@pytest.mark.parametrize(("name", "count"), [("no_such_symbol", "0 times"), ("name_show", "times")])
def test_a_symbol_that_the_kernel_has_not_once_is_an_error(
    kernel: Kernel, name: str, count: str
) -> None:
    module = elf.parse(engine.build_engine(kernel).read_bytes())
    engine.check_symbols(module, kernel)
    symbol = next(each for each in module.symbols if each.section == SHN_LIVEPATCH)
    symbol.name = f"{SYMBOL_PREFIX}vmlinux.{name},0"
    with pytest.raises(ModuleError, match=f"{name}: is in {kernel.release} .*{count}"):
        engine.check_symbols(module, kernel)


def test_the_verb(kernel: Kernel, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import json

    output = tmp_path / "engine.ko"
    words = ["engine", "build", "-k", kernel.release, "-o", str(output), "--json", "--quiet"]
    assert main(words) == 0
    document = json.loads(capsys.readouterr().out)
    validate("engine", document)
    assert document["path"] == str(output)
    assert output.read_bytes() == engine.build_engine(kernel).read_bytes()
    assert len(output.read_bytes()) == document["size"]
    assert main(["engine", "build", "-k", kernel.release, "-o", str(tmp_path), "--quiet"]) == 2


# -- DKMS -----------------------------------------------------------------------------------------


def unsigned(data: bytes) -> bytes:
    """A module without its signature: scripts/sign-file.c adds it, its length last, and a mark."""
    assert data.endswith(relocate.SIGNATURE)
    end = len(data) - len(relocate.SIGNATURE)
    return data[: end - 12 - int.from_bytes(data[end - 4 : end], "big")]


@pytest.mark.skipif(
    shutil.which("dkms") is None, reason="dkms is missing: apt-get install dkms openssl"
)
@pytest.mark.skipif(os.geteuid() != 0, reason="dkms wants to be run by root")
def test_dkms_signs_the_same_module(newest_kernel: Kernel, tmp_path: Path) -> None:
    """Debian's own dkms: what it signs is the finished module, to the last byte."""
    source = tmp_path / "src/livegraft-engine-1"
    for name, content in engine.sources().items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(content)
    shutil.copyfile(KMOD / "dkms.conf", source / "dkms.conf")
    (tmp_path / "lib" / newest_kernel.release).mkdir(parents=True)
    (tmp_path / "tree").mkdir()
    done = subprocess.run(
        [
            *("dkms", "build", "livegraft-engine/1", "-k", newest_kernel.release),
            *("--dkmstree", tmp_path / "tree", "--sourcetree", tmp_path / "src"),
            *("--installtree", tmp_path / "lib", "--kernelsourcedir", newest_kernel.headers),
        ],
        env=os.environ
        | {
            "sign_file": str(newest_kernel.headers / "scripts/sign-file"),
            "mok_signing_key": str(tmp_path / "key"),
            "mok_certificate": str(tmp_path / "certificate"),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (module,) = (tmp_path / "tree").rglob("livegraft_engine.ko")
    assert unsigned(module.read_bytes()) == engine.build_engine(newest_kernel).read_bytes()


def test_dkms_knows_the_engines_version() -> None:
    version = re.search(r'#define LG_VERSION\s+"(.*)"', (KMOD / "engine.h").read_text())
    assert version is not None
    assert f'PACKAGE_VERSION="{version[1]}"' in (KMOD / "dkms.conf").read_text()


# -- an installed package -------------------------------------------------------------------------


def test_an_installed_package_has_the_sources(tmp_path: Path, found: dict[str, bytes]) -> None:
    tree = tmp_path / "tree"
    listed = subprocess.run(
        ["git", "ls-files", "-z", "src", "kmod", "pyproject.toml", "README.md", "LICENSE"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    for name in filter(None, listed.split("\0")):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, tree / name, follow_symlinks=False)
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "wheel", "-q", "--disable-pip-version-check"),
            *("--no-deps", "--no-build-isolation", "--no-index", "-w", tmp_path, tree),
        ],
        check=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    prefix = "livegraft/module/kmod/"
    with zipfile.ZipFile(wheel) as package:
        inside = {
            name.removeprefix(prefix): package.read(name)
            for name in package.namelist()
            if name.startswith(prefix)
        }
    assert found.items() <= inside.items()
    assert inside["dkms.conf"] == (KMOD / "dkms.conf").read_bytes()
