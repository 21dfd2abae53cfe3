# SPDX-License-Identifier: GPL-2.0-or-later
"""The runtime's verbs in a guest, each in a fork of one Python that has imported it.

Starting Python with the runtime takes seconds where the processor is emulated, and the tests run
hundreds of verbs. A fork is as good as a new process: what is imported has done nothing yet. That
the command starts by itself is shown by those that run it so (``RUNTIME`` of :mod:`tests.live`).
"""

from __future__ import annotations

import json
import signal
import time

from livegraft.lab.guest import BackgroundJob, Guest, Result

_SERVER = """
import importlib, json, os, pkgutil, sys, traceback
import livegraft.runtime
for found in pkgutil.iter_modules(livegraft.runtime.__path__):
    importlib.import_module(f"livegraft.runtime.{found.name}")
from livegraft.runtime.__main__ import main

def act(words):
    status = 1
    try:
        status = main(words)
    except SystemExit as error:
        status = error.code
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)

def read(file):
    return os.pread(file, os.fstat(file).st_size, 0).decode()

for line in sys.stdin:
    out, error = os.memfd_create("out"), os.memfd_create("error")
    child = os.fork()
    if not child:
        os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
        os.dup2(out, 1)
        os.dup2(error, 2)
        act(json.loads(line))
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(json.dumps([status, read(out), read(error)]), flush=True)
    os.close(out)
    os.close(error)
"""

_OF_GUEST = "resident of the tests"
"""The guest's attribute: the server goes when the guest goes."""


def run_verb(guest: Guest, *words: str, timeout: float = 120) -> Result:
    """Run ``python3 -m livegraft.runtime`` with these words to its end.

    Args:
        guest: where; its image has Python.
        words: the verb and its arguments.
        timeout: seconds after which it is an error, and killed.
    """
    server: _Server | None = vars(guest).get(_OF_GUEST)
    if server is None or not server.running:
        server = _Server(guest)
        setattr(guest, _OF_GUEST, server)
    return server.run(words, timeout)


class _Server:
    def __init__(self, guest: Guest) -> None:
        self._job: BackgroundJob = guest.start(["python3", "-c", _SERVER])
        self._seen = 0

    @property
    def running(self) -> bool:
        return self._job.running

    def run(self, words: tuple[str, ...], timeout: float) -> Result:
        began = time.monotonic()
        self._job.feed(json.dumps(words).encode() + b"\n")
        while (end := (output := self._job.output()).find(b"\n", self._seen)) < 0:
            if time.monotonic() > began + timeout or not self._job.running:
                self._job.kill(signal.SIGKILL)  # SIGTERM would only end the server
                raise AssertionError((words, self._job.wait()))
            time.sleep(0.01)
        status, out, error = json.loads(output[self._seen : end])
        self._seen = end + 1
        return Result(status, out.encode(), error.encode(), time.monotonic() - began)
