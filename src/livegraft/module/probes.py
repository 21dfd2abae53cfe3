# SPDX-License-Identifier: GPL-2.0-or-later
"""What kbuild asks the compiler each time it starts, answered beforehand.

Its makefiles try thirty options of the compiler, one run of it after the other, before they do
anything (scripts/Makefile.compiler, ``try-run``): a third of what a module takes. The answers are
learnt once for a kernel's headers and compiler, and given by a makefile that is read before all
others (the variable MAKEFILES of make(1)). What has not been asked before is asked as ever.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import tempfile
from pathlib import Path

from livegraft.errors import CommandMissing
from livegraft.kernel.kernel import Kernel
from livegraft.run import run

_TOLD = re.compile(r"^livegraft-probe ([yn]) (\S+)$", re.MULTILINE)

_COMMON = r"""# What the compiler says to kbuild; made by livegraft.
override lg-empty :=
override lg-space := $(lg-empty) $(lg-empty)
override lg-key = $(subst %,~p,$(subst $(lg-space),~s,$(1)))
override lg-ask = $(shell d=$$(mktemp -d) && TMP=$$d/tmp; \
	if ($(1)) >/dev/null 2>&1; then echo y; else echo n; fi; rm -rf "$$d")
"""
"""A question is a command, and one word of a list: spaces would divide it, and % be a pattern."""

_LEARN = """
override lg-told = $(info livegraft-probe $(1) $(2))$(if $(filter y,$(1)),$(3),$(4))
override try-run = $(call lg-told,$(call lg-ask,$(1)),$(call lg-key,$(1)),$(2),$(3))
"""

_ANSWER = """
override lg-yes := {yes}
override lg-no := {no}
override lg-known = $(if $(filter $(1),$(lg-yes)),y,$(if $(filter $(1),$(lg-no)),n))
override lg-answer = $(or $(call lg-known,$(call lg-key,$(1))),$(call lg-ask,$(1)))
override try-run = $(if $(filter y,$(call lg-answer,$(1))),$(2),$(3))
"""

_TOOLS = ("as", "ld")
"""Those that kbuild asks beside the compiler, as they are called on the machine that it is for."""

SECONDS = 120


def environment(kernel: Kernel, *options: str) -> dict[str, str]:
    """The variables for a run of make with the kernel's headers package.

    Args:
        kernel: the prepared kernel.
        options: of make, which decide what is asked.

    Raises:
        CommandMissing: the compiler is not there.
        RunFailed: kbuild does not work with these headers.
        CacheError: the disk is full.
    """
    return {"MAKEFILES": str(answers(kernel, *options))}


def answers(kernel: Kernel, *options: str) -> Path:
    """The makefile with the answers, learnt if it is not in the cache."""
    words = ("make", "-C", str(kernel.headers), "ARCH=x86", f"CC={kernel.compiler}", *options)
    compiler = shutil.which(kernel.compiler)
    if compiler is None:
        raise CommandMissing(kernel.compiler, "is not installed", "run 'make setup'")
    tools = [Path(found) for name in (compiler, *_TOOLS) if (found := shutil.which(name))]
    stats = [(str(each), each.stat().st_size, each.stat().st_mtime_ns) for each in tools]
    what = (_COMMON, _LEARN, _ANSWER, words, stats)
    key = hashlib.sha256(repr(what).encode()).hexdigest()[:16]

    def make(path: Path) -> None:
        with tempfile.TemporaryDirectory(prefix="livegraft-probes-") as name:
            folder = Path(name).resolve()
            learning = folder / "learn.mk"
            learning.write_text(_COMMON + _LEARN)
            module = folder / "module"
            module.mkdir()
            (module / "Kbuild").write_text("")
            argv = [*words, f"M={module}", "modules"]
            said = run(argv, env={"MAKEFILES": str(learning)}, timeout=SECONDS).stdout
        path.write_text(_COMMON + _answered(said))

    return kernel.cache.file(kernel.derived(f"kbuild/answers-{key}.mk"), make)


def _answered(said: str) -> str:
    """The makefile's part with the answers that make has told.

    Args:
        said: what it printed.
    """
    found: dict[str, set[str]] = {"y": set(), "n": set()}
    for answer, question in _TOLD.findall(said):
        if "#" not in question:  # it would begin a comment
            found[answer].add(question.replace("$", "$$"))
    contradictory = found["y"] & found["n"]
    yes, no = (" ".join(sorted(found[each] - contradictory)) for each in "yn")
    return _ANSWER.replace("{yes}", yes).replace("{no}", no)
