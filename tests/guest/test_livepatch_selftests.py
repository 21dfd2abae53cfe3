# SPDX-License-Identifier: GPL-2.0-or-later
"""The kernel's own livepatch selftests, with loading and unloading done by livegraft's runtime.

Scripts and modules are those of the kernel's source package, taken at test time. The scripts
compare the kernel's log with what it has to hold: nothing that the runtime does may show there.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.releases import RELEASES

from livegraft.cache import Cache
from livegraft.kernel.apt import Apt
from livegraft.kernel.kernel import Kernel, prepare
from livegraft.kernel.packages import find
from livegraft.lab.boot import boot
from livegraft.lab.guest import Guest
from livegraft.lab.trial import FAULT
from livegraft.run import run

pytestmark = [pytest.mark.guest, pytest.mark.timeout(3600)]

SCRIPTS = "tools/testing/selftests/livepatch"
DRIVEN = Path(__file__).parent / "selftests/driven.sh"

TOOLS = {
    "bash": ["bin/bash"],
    "coreutils": ["usr/bin/comm", "bin/date", "bin/mktemp", "usr/bin/stat"],
    "diffutils": ["usr/bin/diff"],
    "kmod": ["bin/kmod"],
    "libc-bin": ["usr/bin/getconf"],
    "libpcre2-8-0": ["usr/lib/x86_64-linux-gnu/libpcre2-8.so.0"],
    "libselinux1": ["lib/x86_64-linux-gnu/libselinux.so.1"],
    "libssl3": ["usr/lib/x86_64-linux-gnu/libcrypto.so.3"],
    "libtinfo6": ["lib/x86_64-linux-gnu/libtinfo.so.6"],
    "libzstd1": ["usr/lib/x86_64-linux-gnu/libzstd.so.1"],
    "procps": ["sbin/sysctl"],
}
"""What the scripts need and busybox does not have, or has in another way: package to files."""

KMOD = ("depmod", "insmod", "modinfo", "modprobe", "rmmod")
"""kmod's names; what it says of a failure is what the scripts expect."""

HAMMER = "test_klp-call_getpid"
"""A program that the scripts of 6.12 start."""

QUICK = "test-ftrace"
COUNTS = {"6.1.": 22, "6.12.": 25}


@dataclass(frozen=True)
class Selftests:
    """The selftests of one kernel, ready for a guest."""

    kernel: Kernel
    files: dict[str, bytes | Path]
    scripts: list[str]


def tools(folder: Path) -> dict[str, bytes | Path]:
    """The files of TOOLS, by their place in the guest."""
    cache, apt = Cache(), Apt()
    apt.lookup(TOOLS)
    packages = [find(apt, name) for name in TOOLS]
    apt.fetch(packages, cache, lambda _: None)
    found: dict[str, bytes | Path] = {}
    for package in packages:
        into = folder / package.name
        into.mkdir(parents=True)
        apt.unpack(package, cache, into)
        for name in TOOLS[package.name]:
            found["usr/" + name.removeprefix("usr/")] = (into / name).resolve()
    return found


def modules(kernel: Kernel, folder: Path) -> list[Path]:
    """The test modules, built from the kernel's source as modules from outside."""
    own = kernel.source / SCRIPTS / "test_modules"
    shutil.copytree(own if own.is_dir() else kernel.source / "lib/livepatch", folder)
    argv = ["make", "-C", str(kernel.headers), f"M={folder}", f"CC={kernel.compiler}"]
    run([*argv, "CONFIG_TEST_LIVEPATCH=m", "modules"])
    return sorted(folder.glob("*.ko"))


@pytest.fixture(scope="module", params=RELEASES)
def selftests(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Selftests:
    kernel = prepare(request.param)
    folder = tmp_path_factory.mktemp("selftests")
    files = tools(folder / "tools")
    scripts = kernel.source / SCRIPTS
    if (scripts / f"{HAMMER}.c").is_file():
        run(["cc", "-O2", "-static", "-o", folder / HAMMER, scripts / f"{HAMMER}.c"])
        files[f"root/selftests/{HAMMER}"] = folder / HAMMER
        where = "root/selftests/test_modules"
    else:
        where = f"usr/lib/modules/{kernel.release}/extra"
    for module in modules(kernel, folder / "modules"):
        files[f"{where}/{module.name}"] = module
    for script in scripts.glob("*.sh"):
        text = script.read_bytes()
        if script.name == "functions.sh":
            text += DRIVEN.read_bytes()
        files[f"root/selftests/{script.name}"] = text
    return Selftests(kernel, files, sorted(each.stem for each in scripts.glob("test-*.sh")))


@pytest.fixture
def guest(selftests: Selftests) -> Iterator[Guest]:
    kernel = selftests.kernel
    with boot(kernel.vmlinuz, kernel.modules, files=selftests.files) as guest:
        for name in KMOD:
            guest.check(["ln", "-sf", "kmod", f"/usr/bin/{name}"])
            guest.check(["rm", "-f", f"/usr/sbin/{name}"])
        guest.check(["mkdir", "-p", f"/usr/lib/modules/{kernel.release}/build"])
        guest.check(["depmod", kernel.release])
        yield guest
        log = [each.text for each in guest.kernel_log()]
        assert not [each for each in log if FAULT.search(each)]
        assert not [each for each in log if "signaling remaining tasks" in each]


def run_script(guest: Guest, name: str) -> int:
    """Run a script; returns how many tests passed in it, which are all that it has."""
    done = guest.shell(f"cd /root/selftests; KDIR=/ bash ./{name}.sh", timeout=600)
    assert done.status == 0, done.text + done.stderr.decode()
    lines = [line for line in done.text.splitlines() if line.startswith("TEST: ")]
    assert lines and all(line.endswith("... ok") for line in lines), done.text
    return len(lines)


def driven(guest: Guest) -> int:
    """How often the runtime has loaded or unloaded."""
    return len(guest.get("/root/driven").splitlines())


def test_one_selftest(guest: Guest) -> None:
    """Loading that the kernel refuses, loading, and unloading; the others take minutes."""
    assert run_script(guest, QUICK) == 1
    assert driven(guest) == 2


@pytest.mark.soak
def test_all_selftests(selftests: Selftests, guest: Guest) -> None:
    passed = {name: run_script(guest, name) for name in selftests.scripts}
    expected = [n for series, n in COUNTS.items() if selftests.kernel.release.startswith(series)]
    assert [sum(passed.values())] == expected, passed
    assert driven(guest) >= 40
