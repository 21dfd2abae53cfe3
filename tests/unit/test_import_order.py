# SPDX-License-Identifier: GPL-2.0-or-later
"""Data flows one way through the rooms; so do the imports."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from livegraft import runtime

SOURCE = Path(__file__).parents[2] / "src"

FOUNDATION = "foundation"

ORDER = (
    (FOUNDATION,),
    ("elf", "kernel", "trust"),
    ("fix", "kbuild"),
    ("compare",),
    ("extract",),
    ("verdict", "module"),
    ("runtime", "lab"),
    ("assessment",),
    ("pipeline",),
    ("survey",),
    ("cli",),
)
"""A room imports from those before it, never from those behind; neighbours not from each other."""

RANK = {room: rank for rank, rooms in enumerate(ORDER) for room in rooms}

FOUNDATION_MODULES = {"", "errors", "run", "progress", "cache", "changeset", "jobs"}

RUNTIME_MAY = (
    *("livegraft.errors", "livegraft.progress", "livegraft.run", "livegraft.elf.header"),
    "livegraft.trust",
)
"""What the runtime may import of the package: production machines run it and nothing else."""

Import = tuple[str, str]
"""The module that imports, and the one that it imports."""


def module_name(path: Path) -> str:
    """``livegraft.kernel.release`` for its file."""
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(name: str, text: str, package: bool) -> Iterator[Import]:
    """All imports of the package's own modules, those inside of functions too."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from ((name, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = name.split(".")
                up = node.level - package
                base = ".".join([*parts[: len(parts) - up], *filter(None, [base])])
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                yield name, inner if is_module(inner) else base


def is_module(name: str) -> bool:
    path = SOURCE.joinpath(*name.split("."))
    return path.with_suffix(".py").is_file() or path.is_dir()


def all_imports() -> list[Import]:
    return [
        found
        for path in sorted((SOURCE / "livegraft").rglob("*.py"))
        for found in imports_of(
            module_name(path), path.read_text("utf-8"), path.name == "__init__.py"
        )
    ]


def room_of(module: str) -> str:
    """The room of a module of the package."""
    name = module.removeprefix("livegraft").removeprefix(".").split(".")[0]
    return FOUNDATION if name in FOUNDATION_MODULES else name


def own(imports: list[Import]) -> list[Import]:
    return [pair for pair in imports if pair[1].split(".")[0] == "livegraft"]


def against_the_order(imports: list[Import]) -> list[str]:
    return [
        f"{importer} imports {imported}"
        for importer, imported in own(imports)
        if RANK[room_of(imported)] > RANK[room_of(importer)]
    ]


def both_ways(imports: list[Import]) -> set[frozenset[str]]:
    rooms = {(room_of(importer), room_of(imported)) for importer, imported in own(imports)}
    return {frozenset((a, b)) for a, b in rooms if a != b and (b, a) in rooms}


IMPORTS = all_imports()


def test_every_room_has_its_place() -> None:
    rooms = {room_of(module_name(path)) for path in (SOURCE / "livegraft").rglob("*.py")}
    assert rooms <= set(RANK)


def test_no_room_imports_from_a_later_one() -> None:
    assert against_the_order(IMPORTS) == []


def test_no_two_rooms_import_each_other() -> None:
    assert both_ways(IMPORTS) == set()


def test_the_order_can_be_broken() -> None:
    """The negative control: both checks see what they look for."""
    wrong = list(
        imports_of("livegraft.elf.object", "def f():\n    from ..cli import main\n", False)
    )
    assert wrong == [("livegraft.elf.object", "livegraft.cli.main")]
    assert against_the_order(wrong) == ["livegraft.elf.object imports livegraft.cli.main"]
    assert both_ways([*wrong, ("livegraft.cli.main", "livegraft.elf.object")])


def test_the_oracle_shares_nothing_with_what_it_judges() -> None:
    """What says whether a module is right reads objects by itself."""
    judges = {f"livegraft.survey.{name}" for name in ("oracle", "objectfile", "running")}
    judges.add("livegraft.survey.rewritten")
    found = {imported for importer, imported in own(IMPORTS) if importer in judges}
    assert found - judges == {"livegraft.errors"}


def test_the_runtime_imports_nothing_else_of_the_package() -> None:
    found = [
        f"{importer} imports {imported}"
        for importer, imported in own(IMPORTS)
        if room_of(importer) == "runtime"
        and not imported.startswith(("livegraft.runtime", "livegraft.trust"))
        and imported not in RUNTIME_MAY
    ]
    assert found == []


@pytest.mark.parametrize("room", ["runtime", *RUNTIME_MAY])
def test_the_runtime_imports_the_standard_library_only(room: str) -> None:
    found = [
        f"{importer} imports {imported}"
        for importer, imported in IMPORTS
        if importer.startswith(f"livegraft.{room.removeprefix('livegraft.')}")
        and imported.split(".")[0] not in {*sys.stdlib_module_names, "livegraft"}
    ]
    assert found == []


def isolated(code: str) -> subprocess.CompletedProcess[str]:
    """Run Python that has the standard library and, in ``sys.argv[1]``, where the sources are."""
    return subprocess.run(
        [sys.executable, "-I", "-S", "-c", code, str(SOURCE)],
        capture_output=True,
        text=True,
        check=False,
    )


RUNTIME_VERBS = """
import sys
sys.path.insert(0, sys.argv[1])
from livegraft.cli import parser
names = ["load", "unload", "status", "wait", "verify", "history", "metrics"]
names += ["install", "uninstall", "list", "boot"]
root, verbs = parser.build(names)
assert [*verbs] == names
root.parse_args(["status"])
loaded = {name.split(".")[1] for name in sys.modules if name.startswith("livegraft.")}
print(*sorted(loaded))
"""


def test_runtime_verbs_run_without_any_installed_package() -> None:
    """-S leaves site-packages out: an import of anything there would fail."""
    done = isolated(RUNTIME_VERBS)
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.split()) == {"cli", "elf", "errors", "progress", "runtime", "trust"}


SLOW = {"dataclasses", "inspect", "ast"}
"""The first imports the others, and compiles source for each class: as long as all the rest."""

OF_VERBS = {"loading", "unloading", "forecasting", "verifying", "history", "booting", "metrics"}
"""Modules of the runtime that only some verbs need."""

STARTED = """
import sys
sys.path.insert(0, sys.argv[1])
import livegraft.runtime.__main__
print(*sys.modules)
"""


def test_the_runtime_starts_with_little() -> None:
    """What one verb needs comes with that verb."""
    done = isolated(STARTED)
    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.split())
    assert loaded & {*SLOW, "json", "datetime", "subprocess"} == set()
    assert loaded & {f"livegraft.runtime.{name}" for name in OF_VERBS} == set()


def test_no_part_of_the_runtime_imports_what_is_slow() -> None:
    found = [
        f"{importer} imports {imported}"
        for importer, imported in IMPORTS
        if importer.startswith(("livegraft.runtime", *RUNTIME_MAY)) and imported in SLOW
    ]
    assert found == []


ALONE = """
import importlib, os, pkgutil, sys
sys.path.insert(0, sys.argv[1])
import livegraft
import livegraft.runtime, livegraft.trust
for room in (livegraft.runtime, livegraft.trust):
    for found in pkgutil.iter_modules(room.__path__, room.__name__ + "."):
        child = os.fork()
        if not child:
            importlib.import_module(found.name)
            os._exit(0)
        if os.waitpid(child, 0)[1]:
            sys.exit(found.name)
        print(found.name)
"""


def test_each_module_of_the_runtime_can_be_the_first() -> None:
    """A verb imports its modules in its own order: none may need that another was there before."""
    done = isolated(ALONE)
    assert (done.returncode, done.stderr) == (0, "")
    assert {"livegraft.runtime.loading", "livegraft.trust.store"} <= set(done.stdout.split())


def test_what_the_runtime_offers() -> None:
    assert sorted(runtime._PLACES) == sorted(runtime.__all__)
    for name, place in runtime._PLACES.items():
        assert getattr(runtime, name).__module__ == f"livegraft.runtime.{place}"
    with pytest.raises(AttributeError, match="no attribute 'lode'"):
        runtime.lode  # type: ignore[attr-defined]  # noqa: B018


def test_only_the_command_line_prints_or_exits() -> None:
    """A library that ends the program takes the decision away from its caller."""
    found = []
    for path in sorted((SOURCE / "livegraft").rglob("*.py")):
        name = module_name(path)
        if room_of(name) == "cli" or path.name == "__main__.py":
            continue
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in {"print", "sys.exit"}:
                found.append(f"{name}:{node.lineno}: {ast.unparse(node.func)}")
    assert found == []
