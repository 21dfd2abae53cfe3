# SPDX-License-Identifier: GPL-2.0-or-later
"""What ``livegraft.h`` says to the compiler, and what is told when it is used wrongly.

Its effects on a running kernel are in tests/guest/test_authors_guest.py, marks that name nothing in
tests/data/refused.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from livegraft import pipeline
from livegraft.changeset import Target
from livegraft.elf import object as elf
from livegraft.errors import CompileError
from livegraft.kernel.kernel import Kernel
from livegraft.pipeline import Verdict

pytestmark = pytest.mark.build

FixOf = Callable[[dict[str, tuple[str, str] | str]], Path]

CMDLINE = "fs/proc/cmdline.c"
EVENTFD = "fs/eventfd.c"
KVM = "arch/x86/kvm/irq.c"


def cmdline(text: str) -> dict[str, tuple[str, str] | str]:
    return {CMDLINE: f"\n#include <livegraft.h>\n{text}"}


CALLBACK = "static int before(struct klp_object *object)\n{\n\treturn 0;\n}\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "static void before(void)\n{\n}\nLIVEGRAFT_PRE_PATCH(before);\n",
            "incompatible pointer type",
        ),
        (f"{CALLBACK}LIVEGRAFT_POST_PATCH(before);\n", "incompatible pointer type"),
        (
            f"{CALLBACK}LIVEGRAFT_PRE_PATCH(before);\nLIVEGRAFT_PRE_PATCH(before);\n",
            "redefinition of '__livegraft_pre_patch'",
        ),
        ("LIVEGRAFT_STATE(0, 1);\n", "static assertion failed"),
        ("LIVEGRAFT_PRE_PATCH(nowhere);\n", "'nowhere' undeclared"),
    ],
    ids=["arguments", "result", "twice", "state", "unknown"],
)
def test_what_the_compiler_refuses(text: str, said: str, kernel: Kernel, fix_of: FixOf) -> None:
    with pytest.raises(CompileError) as failed:
        pipeline.check([fix_of(cmdline(text))], kernel)
    message = str(failed.value).replace("\u2018", "'").replace("\u2019", "'")
    assert failed.value.subject.startswith(f"{CMDLINE}:")
    assert said in message
    assert str(kernel.source) not in message


def test_marks_alone_change_nothing(kernel: Kernel, fix_of: FixOf) -> None:
    """The header and a declared state bring no code: there is nothing to load."""
    fix = fix_of(cmdline("LIVEGRAFT_STATE(7, 1);\nLIVEGRAFT_SHADOW(counted, int, 8);\n"))
    outcome = pipeline.check([fix], kernel)
    assert (outcome.verdict, outcome.functions) == (Verdict.UNCHANGED, ())


MEMBER = (
    "\tunsigned int flags;\n\tint id;\n};\n",
    "\tunsigned int flags;\n\tint id;\n\tint more;\n};\n",
)


@pytest.mark.parametrize("accepted", [False, True])
def test_a_layout_is_accepted_by_the_authors_word(
    accepted: bool, kernel: Kernel, fix_of: FixOf
) -> None:
    mark = "\n#include <livegraft.h>\nLIVEGRAFT_ACCEPT_LAYOUT(struct eventfd_ctx);\n"
    fix = fix_of({EVENTFD: (MEMBER[0], MEMBER[1] + (mark if accepted else ""))})
    outcome = pipeline.check([fix], kernel)
    rules = {(each.rule, each.object) for each in outcome.reasons}
    assert (("structure-layout", "struct eventfd_ctx") in rules) == (not accepted)
    told = any("struct eventfd_ctx: its layout is taken" in text for text in outcome.warnings)
    assert told == accepted
    if accepted:
        assert outcome.changes is not None
        assert outcome.changes.decisions.accepted_layouts == ("struct eventfd_ctx",)


@pytest.mark.parametrize(
    ("new", "symbol"),
    [
        ('\tasm volatile("nop");', "__SCT__kvm_x86_migrate_timers"),
        ("\tLIVEGRAFT_STATIC_CALL(kvm_x86_migrate_timers)(vcpu);", "__SCK__kvm_x86_migrate_timers"),
    ],
    ids=["trampoline", "key"],
)
def test_a_static_call_of_a_module_is_an_ordinary_call(
    new: str, symbol: str, any_kernel: Kernel, tmp_path: Path
) -> None:
    """objtool knows static calls by their symbols' names, and would have the loader patch the call
    before the module's address is known; under a livepatch symbol it is an ordinary call. What the
    author calls by the header's macro reads the key."""
    source = (any_kernel.source / KVM).read_text("utf-8")
    (call,) = [line for line in source.splitlines(True) if "migrate_timers)(vcpu);" in line]
    line = source[: source.index(call)].count("\n") + 1
    fix = tmp_path / "fix.patch"
    first = "#include <linux/kvm_host.h>\n"
    included = source[: source.index(first)].count("\n") + 1
    fix.write_text(
        f"--- a/{KVM}\n+++ b/{KVM}\n"
        f"@@ -{included},1 +{included},2 @@\n {first}+#include <livegraft.h>\n"
        f"@@ -{line},1 +{line + 1},2 @@\n {call}+{new}\n"
    )
    built = pipeline.build([fix], any_kernel, output=tmp_path / "kvm.ko")
    target = Target("kvm", symbol, 1)
    assert [each.count for each in built.inspection.references if each.target == target] == [1]
    obj = elf.read(built.path)
    assert not [each for each in obj.sections if each.name == ".static_call_sites" and each.size]
