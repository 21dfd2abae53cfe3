# SPDX-License-Identifier: GPL-2.0-or-later
"""Pieces made by hand, for tests of the module builder that do not trust the comparison.

A C file of module_sources/ is compiled with the command that the kernel uses for the unit that it
stands for. The object is then given what a piece has: global symbols at its new functions.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from livegraft.changeset import VMLINUX, ChangeSet, Function, Piece, Reference, State, Target
from livegraft.elf import object as elf
from livegraft.elf import writer
from livegraft.elf.object import Binding, SymbolType, sort_symbols
from livegraft.kbuild.command import learn
from livegraft.kbuild.objects import units_among
from livegraft.kernel.image import open_image
from livegraft.kernel.kallsyms import open_kallsyms
from livegraft.kernel.kernel import Kernel
from livegraft.kernel.modulefile import open_module
from livegraft.kernel.symbols import KernelSymbols, SymbolTable
from livegraft.kernel.symvers import read_symvers
from livegraft.module.advisory import Advisory
from livegraft.module.build import KERNEL_SYMBOLS, Module, build_module
from livegraft.module.manifest import Identity, Provenance
from livegraft.run import run

SOURCES = Path(__file__).parent / "module_sources"
PREFIX = "reference_"
NAME = "livegraft_test"

PROVENANCE = Provenance(
    fix_sha256="a5" * 32,
    files=("fs/ext4/mballoc.c", "fs/proc/cmdline.c"),
    proof=True,
    compiler="gcc-12 (Debian 12.2.0-14+deb12u1) 12.2.0",
    version="0.1.0",
    advisory=Advisory(("CVE-2026-1234", "CVE-2026-12345")),
)


def target(kernel: Kernel, object: str, name: str) -> Target:
    """The only symbol of that name."""
    symbols: SymbolTable
    if object == VMLINUX:
        symbols = KernelSymbols(open_kallsyms(kernel, open_image(kernel)))
    else:
        symbols = open_module(kernel, object).symbols
    (place,) = symbols.places(name)
    return symbols.target(name, place)


def compile_piece(kernel: Kernel, unit: str, names: dict[str, str], function: str) -> Piece:
    """The piece of a unit that changes one function.

    Args:
        kernel: the kernel.
        unit: the unit that the source of the same base name in module_sources/ stands for.
        names: the object that each reference is in.
        function: the function's name.
    """
    place = units_among(kernel, [unit])[unit]
    command = learn(kernel, [place])[place]
    with TemporaryDirectory() as folder:
        output = Path(folder) / "piece.o"
        argv = list(command.argv)
        argv[argv.index(command.source)] = str(SOURCES / Path(unit).name)
        argv[argv.index("-o") + 1] = str(output)
        argv = [word for word in argv if not word.startswith("-Wp,-MMD,")]
        argv[-1:-1] = ["-ffunction-sections", "-fdata-sections", "-g0"]
        run(argv, cwd=kernel.build)
        obj = elf.read(output)
    alias = f"lg_new_{function}"
    for symbol in list(obj.symbols):
        if symbol.name == function:
            symbol.binding = Binding.LOCAL
            obj.add_symbol(
                elf.Symbol(
                    alias,
                    symbol.section,
                    symbol.value,
                    symbol.size,
                    Binding.GLOBAL,
                    SymbolType.FUNC,
                )
            )
    sort_symbols(obj)
    references = tuple(
        Reference(
            PREFIX + name,
            VMLINUX if object == VMLINUX else place.object,
            target(kernel, object, name),
        )
        for name, object in names.items()
    )
    changed = Function(unit, target(kernel, place.object, function), State.CHANGED, alias)
    return Piece(unit, place.object, writer.write(obj), (changed,), references)


def compile_text(kernel: Kernel, text: str, object: str = VMLINUX) -> Piece:
    """A piece made of a C text that defines the new function, ``lg_new``.

    Args:
        kernel: the kernel.
        text: the C text.
        object: vmlinux or ext4: the object that it says it is of.
    """
    place = units_among(kernel, ["fs/proc/cmdline.c"])["fs/proc/cmdline.c"]
    command = learn(kernel, [place])[place]
    with TemporaryDirectory() as folder:
        source, output = Path(folder) / "piece.c", Path(folder) / "piece.o"
        source.write_text(text)
        argv = list(command.argv)
        argv[argv.index(command.source)] = str(source)
        argv[argv.index("-o") + 1] = str(output)
        argv = [word for word in argv if not word.startswith("-Wp,-MMD,")]
        run([*argv[:-1], "-g0", argv[-1]], cwd=kernel.build)
        data = output.read_bytes()
    name = "cmdline_proc_show" if object == VMLINUX else "ext4_seq_mb_stats_show"
    changed = Function("piece.c", target(kernel, object, name), State.CHANGED, "lg_new")
    return Piece("piece.c", object, data, (changed,), ())


def cmdline_piece(kernel: Kernel) -> Piece:
    """vmlinux: /proc/cmdline says that it is patched."""
    names = {"saved_command_line": VMLINUX}
    return compile_piece(kernel, "fs/proc/cmdline.c", names, "cmdline_proc_show")


def ext4_piece(kernel: Kernel) -> Piece:
    """ext4: /proc/fs/ext4/DEVICE/mb_stats says that it is patched."""
    names = {
        "saved_command_line": VMLINUX,
        "ext4_fs_type": "ext4",
        "str2hashbuf_unsigned": "ext4",
    }
    return compile_piece(kernel, "fs/ext4/mballoc.c", names, "ext4_seq_mb_stats_show")


def build(kernel: Kernel, change: ChangeSet, name: str = NAME) -> Module:
    """The module of a change set, as the pipeline has it built."""
    image = open_image(kernel)
    symvers = read_symvers(kernel.headers / "Module.symvers")
    symbols = KernelSymbols(open_kallsyms(kernel, image))
    build_ids = {each: open_module(kernel, each).build_id for each in {*change.objects} - {VMLINUX}}

    def is_exported(symbol: str) -> bool:
        export = symvers.get(symbol)
        return export is not None and export.owner == VMLINUX

    return build_module(
        change,
        name=name,
        kernel=kernel,
        identity=Identity(
            kernel.release, kernel.source_version, build_ids | {VMLINUX: image.build_id}
        ),
        provenance=PROVENANCE,
        is_exported=is_exported,
        positions={each: len(symbols.places(each)) for each in KERNEL_SYMBOLS},
        cold=(),
    )


def changes(*pieces: Piece) -> ChangeSet:
    """A change set of pieces."""
    return ChangeSet("compare", pieces)
