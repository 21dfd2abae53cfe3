# SPDX-License-Identifier: GPL-2.0-or-later
"""Other architectures' objects, compared by the same rules: compiled pairs with their verdicts."""

from __future__ import annotations

import json
import zipfile
from functools import cache
from itertools import permutations
from pathlib import Path

import pytest
from tests.compare_pairs import payload
from tests.golden.architecture_cases import OF_ONE, cases, preamble

from livegraft.cli.main import main
from livegraft.compare.comparison import Comparison, compare_objects
from livegraft.elf import object as elf
from livegraft.elf.object import ElfObject
from livegraft.elf.writer import write
from livegraft.errors import ElfError, Exit
from livegraft.verdict.judge import judge

DATA = Path(__file__).parent / "data"

ALL = [(architecture, name) for architecture in OF_ONE for name in cases(architecture)]


@cache
def archive(architecture: str) -> dict[str, bytes]:
    """The files of an architecture's archive."""
    with zipfile.ZipFile(DATA / f"{architecture}.zip") as found:
        return {name: found.read(name) for name in found.namelist()}


def kept(architecture: str, name: str, side: str) -> ElfObject:
    """One object of a pair."""
    return elf.parse(archive(architecture)[f"{name}/{side}.o"], side)


def compared(architecture: str, name: str) -> Comparison:
    """A pair, compared and judged."""
    sides = (kept(architecture, name, side) for side in ("original", "patched"))
    return judge(compare_objects(*sides))


@pytest.mark.parametrize("architecture", OF_ONE)
def test_the_kept_objects_are_of_these_sources(architecture: str) -> None:
    """Else `make golden` is due."""
    text, sources = json.loads(archive(architecture)["sources.json"])
    assert text == preamble(architecture)
    assert sources == {
        name: [case.before, case.after] for name, case in cases(architecture).items()
    }


@pytest.mark.parametrize(("architecture", "name"), ALL)
def test_verdict(architecture: str, name: str) -> None:
    case, comparison = cases(architecture)[name], compared(architecture, name)
    assert comparison.changed == case.changed
    assert {reason.rule for reason in comparison.reasons} == case.rules, comparison.reasons
    assert (comparison.new, comparison.removed) == ((), ())


@pytest.mark.parametrize(("architecture", "name"), ALL)
def test_every_object_equals_itself(architecture: str, name: str) -> None:
    for side in ("original", "patched"):
        obj = kept(architecture, name, side)
        comparison = judge(compare_objects(obj, kept(architecture, name, side)))
        assert comparison.verdict == "unchanged", comparison.reasons
        again = elf.parse(write(obj), "written again")
        assert judge(compare_objects(obj, again)).verdict == "unchanged"


@pytest.mark.parametrize(("before", "after"), list(permutations(OF_ONE, 2)))
def test_two_machines(
    before: str, after: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [tmp_path / "before.o", tmp_path / "after.o"]
    for path, architecture in zip(paths, (before, after), strict=True):
        path.write_bytes(archive(architecture)["body-changed/original.o"])
    assert main(["compare", *map(str, paths)]) == Exit.FAILED
    named = {"powerpc64le": "ppc64le"}
    text = f"is for {named.get(after, after)}, the original object for {named.get(before, before)}"
    assert text in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("architecture", OF_ONE)
def test_an_unknown_relocation(architecture: str) -> None:
    sides = [kept(architecture, "body-changed", "original") for _ in range(2)]
    for obj in sides:
        section = next(each for each in obj.sections if each.name == ".text.a")
        section.relocations = section.relocations.copy()
        section.relocations["type"][0] = 240
    (reason, *more) = judge(compare_objects(*sides)).reasons
    assert (reason.rule, reason.object) == ("unknown-relocation", "a")
    assert "240" in reason.message
    assert not more


@pytest.mark.parametrize("architecture", OF_ONE)
def test_the_other_byte_order(architecture: str) -> None:
    obj = kept(architecture, "body-changed", "original")
    obj.byte_order = "<" if obj.byte_order == ">" else ">"
    turned = elf.parse(write(obj), "turned")
    with pytest.raises(ElfError, match="endian"):
        compare_objects(turned, turned)


@pytest.mark.parametrize("architecture", OF_ONE)
def test_no_live_patch_is_made(architecture: str) -> None:
    with pytest.raises(ElfError, match="live patches are made for x86-64"):
        payload(compared(architecture, "body-changed"))


B26, PUSH_PLT_PCREL, POP_32_S_0_10_10_16_S2, RELAX = 66, 29, 45, 100


def on_a_stack(obj: ElfObject, added: bool) -> ElfObject:
    """Calls as ABI 1 of loongarch computes them, or with a mark that the linker may relax them."""
    for section in obj.sections:
        entries = []
        for offset, kind, symbol, addend in section.relocations.tolist():
            if kind != B26:
                entries.append((offset, kind, symbol, addend))
            elif added:
                entries += [(offset, kind, symbol, addend), (offset, RELAX, 0, 0)]
            else:
                entries.append((offset, PUSH_PLT_PCREL, symbol, addend))
                entries.append((offset, POP_32_S_0_10_10_16_S2, 0, 0))
        section.relocations = elf.relocations(entries)
    return obj


def test_relocations_that_compute_on_a_stack() -> None:
    pair = [kept("loongarch64", "body-changed", side) for side in ("original", "patched")]
    original, patched = (on_a_stack(obj, False) for obj in pair)
    assert judge(compare_objects(original, patched)).changed == ("a",)
    assert judge(compare_objects(original, original)).verdict == "unchanged"
    called = next(each for each in patched.symbols if each.name == "outside")
    called.name = "inside"
    assert judge(compare_objects(original, patched)).changed == ("a",)
    patched = on_a_stack(kept("loongarch64", "body-changed", "original"), False)
    next(each for each in patched.symbols if each.name == "outside").name = "inside"
    assert judge(compare_objects(original, patched)).changed == ("a",)


def test_a_mark_for_the_linker_is_no_change() -> None:
    original = kept("loongarch64", "body-changed", "original")
    marked = on_a_stack(kept("loongarch64", "body-changed", "original"), True)
    assert judge(compare_objects(original, marked)).verdict == "unchanged"
