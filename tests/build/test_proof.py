# SPDX-License-Identifier: GPL-2.0-or-later
"""The proof on small kernels of two units, built here: what holds, and what each change breaks."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from livegraft.elf import object as elf
from livegraft.errors import ProofFailed, Refused
from livegraft.kbuild.placement import Placement
from livegraft.kbuild.proof import prove_against
from livegraft.kernel.image import parse_image
from livegraft.kernel.kallsyms import Kallsyms
from livegraft.kernel.shipped import ImageCode
from livegraft.kernel.symbols import KernelSymbols

pytestmark = pytest.mark.build

FLAGS = [
    "-O2",
    "-c",
    "-ffreestanding",
    "-fno-pie",
    "-mcmodel=kernel",
    "-fno-asynchronous-unwind-tables",
    "-fcf-protection=none",
    "-fno-stack-protector",
    "-mno-red-zone",
    "-fno-common",
    "-g0",
]

ONE = """
extern int printk(const char *, ...);
extern int shared;
int counter;
static int limit = 40;
static const int table[] = { 3, 1, 4, 1, 5 };

static __attribute__((noinline)) int helper(int x) { return x * 3 + shared; }
static __attribute__((noinline)) int twin(int x) { return x + 1; }

__attribute__((weak)) int arch_hook(int x) { return x; }

int first(int x)
{
	static int calls = 7;

	calls += arch_hook(x);
	if (x > limit)
		printk("one: %d is more than %d\\n", x, limit);
	return helper(x) + twin(x) + calls + counter++;
}

int second(int x)
{
	static int calls = 9;

	calls++;
	return first(table[x % 5]) + calls + twin(x);
}

__attribute__((section(".init.text"))) int setup(void) { limit = 50; return 0; }
int third(int x) { printk("three"); return helper(x - 1); }
"""

TWO = """
extern int printk(const char *, ...);
int shared = 5;
static __attribute__((noinline)) int helper(int x) { return x * 7 - shared; }
static __attribute__((noinline)) int twin(int x) { return x + 1; }
int arch_hook(int x) { return x + shared; }
int other(int x)
{
	static int calls = 1;

	printk("one: %d is more than %d\\n", x, ++calls);
	return helper(x) + twin(x);
}
"""

CORE = """
char _text[0] __attribute__((section(".text")));
int printk(const char *format, ...) { return *format; }
"""

SCRIPT = """
SECTIONS {
  . = 0xffffffff81000000;
  .text : { *(.text .text.*) *(.init.text) }
  . = ALIGN(4096);
  .rodata : { *(.rodata .rodata.*) }
  .notes : { *(.note.gnu.build-id) }
  . = ALIGN(4096);
  .data : { *(.data) }
  .bss : { *(.bss) }
  /DISCARD/ : { *(.comment) *(.note.GNU-stack) *(.note.gnu.property) *(.eh_frame) }
}
"""

Compile = Callable[..., elf.ElfObject]
Link = Callable[..., ImageCode]


def run(*argv: str | Path) -> str:
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def compiled(tmp_path: Path) -> Compile:
    def compile_text(text: str, *flags: str, name: str = "unit") -> elf.ElfObject:
        source, output = tmp_path / f"{name}.c", tmp_path / f"{name}.o"
        source.write_text(text)
        run("gcc", *FLAGS, *flags, source, "-o", output)
        return elf.read(output)

    return compile_text


@pytest.fixture
def linked(tmp_path: Path, compiled: Compile) -> Link:
    def link(*order: str, damage: tuple[str, int] | None = None) -> ImageCode:
        objects = []
        for number, text in enumerate((CORE, *(order or (ONE, TWO)))):
            compiled(text, name=f"linked{number}")
            objects.append(tmp_path / f"linked{number}.o")
        (tmp_path / "link.lds").write_text(SCRIPT)
        whole = tmp_path / "vmlinux"
        options = ("--build-id=sha1", "-z", "max-page-size=4096", "-T", tmp_path / "link.lds")
        run("ld", *options, *objects, "-o", whole)
        symbols = sorted(
            (int(address, 16), letter, name)
            for address, letter, name in map(str.split, run("nm", whole).splitlines())
        )
        data = bytearray(whole.read_bytes())
        if damage is not None:
            name, offset = damage
            address = next(symbol[0] for symbol in symbols if symbol[2] == name)
            section = parse_image(bytes(data), "vmlinux").section_at(address)
            assert section is not None
            data[section.offset + address - section.address + offset] ^= 0x10
        return ImageCode(parse_image(bytes(data), "vmlinux"), kallsyms_of(symbols))

    return link


def kallsyms_of(symbols: list[tuple[int, str, str]]) -> KernelSymbols:
    names = [name.encode() for _, _, name in symbols]
    starts = np.cumsum([0, *(len(name) + 1 for name in names)])[:-1]
    return KernelSymbols(
        Kallsyms(
            b"\0".join(names) + b"\0",
            starts.astype(np.uint32),
            "".join(letter for _, letter, _ in symbols).encode(),
            np.array([address for address, _, _ in symbols], dtype=np.uint64),
            np.array(sorted(range(len(names)), key=names.__getitem__), dtype=np.uint32),
        )
    )


def differing(shipped: ImageCode, unit: elf.ElfObject) -> dict[str, str]:
    with pytest.raises(ProofFailed) as caught:
        prove_against(shipped, "one.c", unit)
    return caught.value.differing


def test_every_function_is_judged(compiled: Compile, linked: Link) -> None:
    placement = prove_against(linked(), "one.c", compiled(ONE))
    assert set(placement.proven) == {"helper", "twin", "first", "second", "setup", "third"}
    assert placement.overridden == ("arch_hook",)
    assert placement.discarded == {}


def test_each_symbol_has_its_exact_place(compiled: Compile, linked: Link) -> None:
    shipped = linked()
    placement = prove_against(shipped, "one.c", compiled(ONE))
    for name in ("first", "counter", "limit", "table", "setup"):
        assert placement.target(name).sympos == 1
        assert placement.places[name] == shipped.symbols.places(name)[0]
    # Both are called "calls", and the linker kept the compiler's numbers.
    assert {placement.places[f"calls.{n}"] for n in (0, 1)} <= set(
        shipped.symbols.places("calls.0") + shipped.symbols.places("calls.1")
    )
    with pytest.raises(Refused, match="is weak"):
        placement.target("arch_hook")
    assert placement.externals["arch_hook"] == shipped.symbols.places("arch_hook")[0]
    assert placement.externals["printk"] == shipped.symbols.places("printk")[0]


@pytest.mark.parametrize("order", [(ONE, TWO), (TWO, ONE)], ids=["one first", "two first"])
def test_twins_are_told_apart(compiled: Compile, linked: Link, order: tuple[str, str]) -> None:
    """``helper`` differs between the units, ``twin`` is the same byte for byte."""
    shipped = linked(*order)
    places: list[Placement] = [prove_against(shipped, "x.c", compiled(text)) for text in order]
    for name in ("helper", "twin"):
        assert len(shipped.symbols.places(name)) == 2
        assert [placement.target(name).sympos for placement in places] == [1, 2]
    assert places[0].places["calls.0"] != places[1].places["calls.0"]


@pytest.mark.parametrize("name", ["helper", "first", "second", "setup", "third"])
def test_one_bit_in_the_image_names_its_function(
    compiled: Compile, linked: Link, name: str
) -> None:
    assert list(differing(linked(damage=(name, 1)), compiled(ONE))) == [name]


@pytest.mark.parametrize("name", ["limit", "table"])
def test_one_bit_in_a_variable_names_it(compiled: Compile, linked: Link, name: str) -> None:
    assert list(differing(linked(damage=(name, 0)), compiled(ONE))) == [name]


@pytest.mark.parametrize(
    ("old", "new", "functions"),
    [
        ("x * 3", "x * 5", ["helper"]),
        ("x + 1; }", "x + (x << 3) + 1111111; }", ["twin"]),
        ("return helper(x - 1)", "return helper(x - 1) * shared", ["third"]),
        ('printk("three")', 'printk("Three")', ["third"]),
        ("calls += arch_hook(x);", "calls += arch_hook(x) + x * 100000;", ["first"]),
        ("limit = 50;", "limit = 50; counter = 1;", ["setup"]),
        ('printk("three");', "printk(0);", ["third"]),
        ("return first(", "return third(", ["second"]),
    ],
)
def test_a_changed_line_names_its_function(
    compiled: Compile, linked: Link, old: str, new: str, functions: list[str]
) -> None:
    assert ONE.count(old) == 1
    assert list(differing(linked(), compiled(ONE.replace(old, new)))) == functions


def test_other_flags_are_noticed(compiled: Compile, linked: Link) -> None:
    found = differing(linked(), compiled(ONE, "-O1"))
    assert "first" in found
    found = differing(linked(), compiled(ONE, "-fno-inline", "-Os"))
    assert found


def test_a_function_that_is_not_there_is_named(compiled: Compile, linked: Link) -> None:
    found = differing(linked(), compiled(ONE + "int fourth(int x) { return third(x) + 2; }"))
    assert found == {"fourth": "is not in vmlinux"}


def test_the_other_unit_is_not_taken_for_this_one(compiled: Compile, linked: Link) -> None:
    only = "int shared; static __attribute__((noinline)) int twin(int x) { return x + 1; }"
    user = "int lonely(int x) { return twin(x); }"
    assert differing(linked(), compiled(only + user))
