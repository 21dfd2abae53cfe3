# SPDX-License-Identifier: GPL-2.0-or-later
"""Modules' ``main()`` in a guest, each time in a fork of one Python that has imported the module.

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
package, _, name = sys.argv[1].rpartition(".")
if name == "__main__":
    for found in pkgutil.iter_modules(importlib.import_module(package).__path__):
        importlib.import_module(f"{package}.{found.name}")
main = importlib.import_module(sys.argv[1]).main

def act(words):
    status = 1
    try:
        status = main(words) or 0
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

_OF_GUEST = "residents of the tests"
"""The guest's attribute: the servers go when the guest goes."""


def run_verb(guest: Guest, *words: str, timeout: float = 120) -> Result:
    """Run ``python3 -m livegraft.runtime`` with these words to its end.

    Args:
        guest: where; its image has Python.
        words: the verb and its arguments.
        timeout: seconds after which it is an error, and killed.
    """
    return run_main(guest, "livegraft.runtime.__main__", *words, timeout=timeout)


def run_main(guest: Guest, module: str, *words: str, timeout: float = 120) -> Result:
    """Run a module's ``main(words)`` to its end; None, which it may return, is the status 0.

    Args:
        guest: where; its image has Python.
        module: its name; of a ``__main__``, the whole package is imported beforehand.
        words: its arguments.
        timeout: seconds after which it is an error, and killed.
    """
    servers: dict[str, _Server] = vars(guest).setdefault(_OF_GUEST, {})
    server = servers.get(module)
    if server is None or not server.running:
        server = servers[module] = _Server(guest, module)
    return server.run(words, timeout)


class _Server:
    def __init__(self, guest: Guest, module: str) -> None:
        self._guest = guest
        self._job: BackgroundJob = guest.start(["python3", "-c", _SERVER, module])
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
                log = [each.text for each in self._guest.kernel_log()[-15:]]
                raise AssertionError((words, self._job.wait(), log))
            time.sleep(0.01)
        status, out, error = json.loads(output[self._seen : end])
        self._seen = end + 1
        return Result(status, out.encode(), error.encode(), time.monotonic() - began)
