# SPDX-License-Identifier: GPL-2.0-or-later
"""One fix with what real fixes are made of, on the running kernels of each series.

Four units of two objects; each case shows by an effect of its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from tests.fixes import Edits, write_fix
from tests.live import RUNTIME
from tests.releases import RELEASES, preferring

from livegraft import pipeline
from livegraft.changeset import State
from livegraft.kernel.kernel import prepare
from livegraft.lab.boot import boot
from livegraft.lab.guest import Guest

CMDLINE = "fs/proc/cmdline.c"

pytestmark = [pytest.mark.guest, pytest.mark.build]

INCLUDES = """\
#include <linux/seq_file.h>
#include <linux/mm.h>
#include <linux/percpu.h>
#include <linux/psi.h>
#include <trace/events/sched.h>
"""

NEW_CODE = """\
unsigned int lg_shared;				/* uptime.c counts it */
static DEFINE_PER_CPU(unsigned int, lg_reads);	/* a new variable for each CPU */

static __printf(2, 3) noinline void lg_say(struct seq_file *m, const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	seq_vprintf(m, format, arguments);
	va_end(arguments);
}

static noinline int lg_twice(int x)
{
	asm volatile("add %0, %0" : "+r"(x));
	return x * 1;
}

static noinline int lg_thrice(int x)
{
	return 3 * READ_ONCE(x);
}

static int (*const lg_table[])(int) = { lg_twice, lg_thrice };

static noinline const char *lg_name(int number)
{
	switch (number) {
	case 0: return "none";
	case 1: return "one";
	case 2: return "two";
	case 3: return "three";
	case 4: return "four";
	case 5: return "five";
	case 6: return "six";
	default: return "many";
	}
}

int cmdline_proc_show(struct seq_file *m, void *v);
int cmdline_proc_show(struct seq_file *m, void *v)
{
	unsigned int cpu, reads = 0;
	static unsigned int total;

	this_cpu_inc(lg_reads);
	for_each_possible_cpu(cpu)
		reads += per_cpu(lg_reads, cpu);
	cond_resched();
	pr_debug("cmdline is read\\n");
	pr_info_ratelimited("cmdline was read by %s\\n", current->comm);
	WARN_ONCE(++total == 2, "cmdline was read twice");
	trace_sched_process_hang(current);
	lg_say(m, "[shared=%u reads=%s total=%u call=%d psi=%d init=%d] ", lg_shared, lg_name(reads),
		total, lg_table[total & 1](7), !static_branch_unlikely(&psi_disabled),
		want_init_on_alloc(0));
"""

EDITS: Edits = {
    # A static function turned global, variadic and indirect calls, all kinds of new variables,
    # static keys, a static call, a tracepoint and dynamic debug of vmlinux, a warning.
    CMDLINE: [
        ("#include <linux/seq_file.h>\n", INCLUDES),
        ("static int cmdline_proc_show(struct seq_file *m, void *v)\n{\n", NEW_CODE),
    ],
    # Another unit with what the first one adds.
    "fs/proc/uptime.c": (
        "\tidle_nsec = 0;\n",
        "\textern unsigned int lg_shared;\n\n\tlg_shared++;\n\tidle_nsec = 0;\n",
    ),
    # A system call with an exception table entry of its own, and alternatives (stac, clac).
    "kernel/sys.c": (
        "\tif (nodep)\n\t\terr |= put_user(cpu_to_node(cpu), nodep);\n"
        "\treturn err ? -EFAULT : 0;\n",
        "\tif (nodep) {\n"
        "\t\tif (!user_access_begin(nodep, sizeof(*nodep)))\n\t\t\treturn -EFAULT;\n"
        "\t\tunsafe_put_user(cpu_to_node(cpu) + 4711, nodep, fault);\n\t\tuser_access_end();\n"
        "\t}\n\treturn err ? -EFAULT : 0;\nfault:\n\tuser_access_end();\n\treturn -EFAULT;\n",
    ),
    # A module that is not there: its tracepoints cannot be, its other code can.
    "fs/ext4/fsync.c": (
        "\tif (sb_rdonly(inode->i_sb)) {",
        '\tpr_debug("ext4 is synced\\n");\n\tif (sb_rdonly(inode->i_sb)) {',
    ),
    # A module, which reads a variable of vmlinux that is not exported.
    "fs/binfmt_misc.c": (
        "\treturn simple_read_from_buffer(buf, nbytes, ppos, s, strlen(s));\n}\n\n"
        "static ssize_t bm_status_write",
        '\tif (strstr(saved_command_line, "lg.no"))\n\t\ts = "not by a patch\\n";\n\telse\n'
        '\t\ts = s[0] == \'e\' ? "on by a patch\\n" : "off by a patch\\n";\n'
        "\treturn simple_read_from_buffer(buf, nbytes, ppos, s, strlen(s));\n}\n\n"
        "static ssize_t bm_status_write",
    ),
}


@dataclass(frozen=True)
class Patched:
    """A guest with the fix in it."""

    guest: Guest
    outcome: pipeline.Outcome
    line: int


@pytest.fixture(scope="module", params=preferring(RELEASES[-1]))
def patched(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Patched]:
    kernel = prepare(str(request.param))
    folder = tmp_path_factory.mktemp("cases")
    fix = write_fix(kernel, EDITS, folder)
    built = pipeline.build([fix], kernel, output=folder / "cases.ko")
    text = fix.read_text()
    source = (
        (kernel.source / CMDLINE)
        .read_text()
        .replace("#include <linux/seq_file.h>\n", INCLUDES)
        .replace("static int cmdline_proc_show(struct seq_file *m, void *v)\n{\n", NEW_CODE)
    )
    assert "WARN_ONCE" in text
    line = 1 + source.splitlines().index('\tWARN_ONCE(++total == 2, "cmdline was read twice");')
    with boot(
        kernel.vmlinuz,
        kernel.modules,
        load=["binfmt_misc"],
        files={"/ko/cases.ko": built.path.read_bytes()},
    ) as guest:
        yield Patched(guest, built.outcome, line)


CALL = """
import ctypes, errno
libc = ctypes.CDLL(None, use_errno=True)
node = ctypes.c_uint()
assert libc.syscall(309, None, ctypes.byref(node), None) == 0
print(node.value, libc.syscall(309, None, ctypes.c_void_p(64), None), ctypes.get_errno())
"""


def test_each_case_shows(patched: Patched) -> None:
    guest = patched.guest
    guest.check(["mount", "-t", "binfmt_misc", "none", "/proc/sys/fs/binfmt_misc"])
    guest.check([*RUNTIME, "load", "/ko/cases.ko"], timeout=120)
    guest.put("/sys/kernel/tracing/events/sched/sched_process_hang/enable", b"1")
    guest.put("/proc/dynamic_debug/control", b"module livegraft_cases +p")
    guest.get("/proc/uptime")
    guest.get("/proc/uptime")
    shown = [guest.get("/proc/cmdline").decode() for _ in range(2)]
    assert [each.partition("] ")[0] for each in shown] == [
        "[shared=2 reads=one total=1 call=21 psi=1 init=1",
        "[shared=2 reads=two total=2 call=14 psi=1 init=1",
    ]
    log = "\n".join(each.text for each in guest.kernel_log())
    assert re.search(
        rf"WARNING: CPU: \d+ PID: \d+ at {CMDLINE}:{patched.line} cmdline_proc_show", log
    )
    assert log.count("cmdline was read twice") == 1
    assert log.count("cmdline was read by ") == 2
    assert log.count("cmdline is read") == 2
    assert guest.get("/sys/kernel/tracing/trace").decode().count("sched_process_hang: ") == 2
    done = guest.check(["python3", "-c", CALL])
    assert done.text.split() == ["4711", "-1", "14"]  # EFAULT
    assert guest.get("/proc/sys/fs/binfmt_misc/status") == b"on by a patch\n"


def test_what_is_lost_or_new_is_told(patched: Patched) -> None:
    told = sorted(each for each in patched.outcome.warnings if not each.startswith("while this"))
    assert [re.sub(r"\.\d+:", ":", each.partition(", which")[0]) for each in told] == [
        "ext4_sync_file: the new code does not fire tracepoint ext4_sync_file_enter",
        "ext4_sync_file: the new code does not fire tracepoint ext4_sync_file_exit",
        "lg_reads: a new variable",
        "lg_shared: a new variable",
        "lg_table: a new variable",
        "total: a new variable",
    ]
    found: dict[State, set[str]] = {}
    for each in patched.outcome.functions:
        found.setdefault(each.state, set()).add(each.target.name.partition(".")[0])
    assert found == {
        State.CHANGED: {
            *("cmdline_proc_show", "uptime_proc_show", "bm_status_read", "ext4_sync_file"),
            *("__x64_sys_getcpu", "__ia32_sys_getcpu"),
        },
        State.NEW: {"lg_say", "lg_name", "lg_twice", "lg_thrice"},
    }


def test_all_of_it_goes_away(patched: Patched) -> None:
    guest = patched.guest
    guest.check([*RUNTIME, "unload", "--all"], timeout=120)
    assert b"shared" not in guest.get("/proc/cmdline")
    assert guest.check(["python3", "-c", CALL]).text.split() == ["0", "-1", "14"]
    assert guest.get("/proc/sys/fs/binfmt_misc/status") == b"enabled\n"
