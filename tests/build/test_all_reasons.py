# SPDX-License-Identifier: GPL-2.0-or-later
"""Every reason of a fix is told at once, whichever step finds it; and types make none in vain."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from livegraft import pipeline
from livegraft.errors import Refused
from livegraft.kernel.kernel import Kernel
from livegraft.pipeline import Verdict

pytestmark = pytest.mark.build

FixOf = Callable[[Mapping[str, object]], Path]

PANIC, UTSNAME = "kernel/panic.c", "kernel/utsname.c"


def test_all_steps_tell_their_reasons(kernel: Kernel, fix_of: FixOf, tmp_path: Path) -> None:
    fixes = [
        fix_of(
            {
                "fs/ext4/Makefile": "# end\n",
                UTSNAME: ("\tuts_ns_cache = ", "\tdump_stack();\n\tuts_ns_cache = "),
            }
        ),
        fix_of(
            {PANIC: ("int panic_on_warn __read_mostly;", "int panic_on_warn __read_mostly = 1;")}
        ),
        # The end of the same file, as a fix of its own.
        fix_of({PANIC: "\nvoid machine_halt(void)\n{\n}\n"}),
    ]
    outcome = pipeline.check(fixes, kernel)
    assert outcome.verdict is Verdict.REFUSED
    assert {(reason.rule, reason.object) for reason in outcome.reasons} == {
        ("build-system", "fs/ext4/Makefile"),  # by the files
        ("init-code", "uts_ns_init"),  # by the comparison of one unit
        ("data-changed", "panic_on_warn"),  # and of another
        ("symbol-exists", "machine_halt"),  # by what runs
    }


def test_code_is_judged_beside_data(kernel: Kernel, fix_of: FixOf) -> None:
    """Of a unit with a table that changes, what speaks against its code is found all the same."""
    trace = "\tinfo.trace = false;\n\tif (static_branch_unlikely("
    fix = fix_of(
        {
            "net/netfilter/nf_tables_core.c": [
                (trace, f"\tif (!basechain)\n\t\treturn NF_DROP;\n{trace}"),
                ("\t&nft_imm_type,\n\t&nft_cmp_type,\n", "\t&nft_cmp_type,\n\t&nft_imm_type,\n"),
            ]
        }
    )
    outcome = pipeline.check([fix], kernel)
    assert {(reason.rule, reason.object) for reason in outcome.reasons} == {
        ("data-changed", "nft_basic_types"),
        ("module-static-key", "nft_do_chain"),
    }


def test_a_fix_that_does_not_compile_for_a_makefile_is_refused(
    kernel: Kernel, fix_of: FixOf
) -> None:
    fix = fix_of({"fs/ext4/Makefile": "CFLAGS_x.o = -DX\n", UTSNAME: "int x = MADE_BY_MAKEFILE;\n"})
    with pytest.raises(Refused) as caught:
        pipeline.check([fix], kernel)
    assert [reason.rule for reason in caught.value.reasons] == ["build-system"]


def test_a_structure_that_becomes_known_changes_no_export(kernel: Kernel, fix_of: FixOf) -> None:
    """genksyms gives other checksums when a unit includes more."""
    fix = fix_of(
        {"lib/bch.c": ("#include <linux/slab.h>", "#include <linux/slab.h>\n#include <linux/fs.h>")}
    )
    assert pipeline.check([fix], kernel).verdict is Verdict.UNCHANGED
