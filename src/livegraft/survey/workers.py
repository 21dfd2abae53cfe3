# SPDX-License-Identifier: GPL-2.0-or-later
"""Worker processes, one per core: each does one task after the other, and can be ended at any time.

Processes and not threads: comparing is Python, and a fix that hangs has to be ended for certain.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from types import FrameType, TracebackType
from typing import Any, Generic, TypeVar

from livegraft.run import GRACE_SECONDS

K = TypeVar("K")
R = TypeVar("R")

_SPAWN = multiprocessing.get_context("spawn")


@dataclass(frozen=True, slots=True)
class Task(Generic[K, R]):
    """Something to be done.

    Args:
        key: says which task a result is of.
        work: a function of a module; it and its arguments go to another process.
        arguments: what it is called with.
    """

    key: K
    work: Callable[..., R]
    arguments: tuple[Any, ...] = ()


@dataclass(frozen=True, slots=True)
class Failure:
    """A task that has no result.

    Args:
        problem: what went wrong, for a person.
        trace: where; empty if the process was ended.
        timed_out: it did not end in time.
        kind: the exception's class; empty if the process was ended.
    """

    problem: str
    trace: str = ""
    timed_out: bool = False
    kind: str = ""


@dataclass(frozen=True, slots=True)
class Done(Generic[K, R]):
    """A task that has ended.

    Args:
        key: the task's.
        result: what it returned, or why not.
        seconds: how long it took.
    """

    key: K
    result: R | Failure
    seconds: float


class Workers:
    """Processes that work side by side; all ended when the block is left.

    Args:
        count: how many; by default one per core that this process may use.
    """

    def __init__(self, count: int | None = None) -> None:
        self.count = count or len(os.sched_getaffinity(0))
        self._idle: list[_Worker] = []
        self._busy: dict[Connection, _Worker] = {}

    def __enter__(self) -> Workers:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        workers = [*self._idle, *self._busy.values()]
        for worker in workers:
            worker.ask_to_end()
        for worker in workers:
            worker.end()

    def run(self, tasks: Iterable[Task[K, R]], timeout: float) -> Iterator[Done[K, R]]:
        """Do tasks, each within `timeout` seconds; what is done comes as soon as it is done."""
        pending = iter(tasks)
        running: dict[Connection, Task[K, R]] = {}
        more = True
        while more or running:
            while more and len(running) < self.count:
                task = next(pending, None)
                if task is None:
                    more = False
                    break
                worker = self._idle.pop() if self._idle else _Worker()
                worker.start(task, timeout)
                self._busy[worker.connection] = worker
                running[worker.connection] = task
            for connection in self._ready(running):
                worker = self._busy.pop(connection)
                yield Done(running.pop(connection).key, self._result(worker), worker.seconds)

    def _ready(self, running: dict[Connection, Task[K, R]]) -> list[Connection]:
        if not running:
            return []
        # Short waits, so that Ctrl-C comes through.
        ready = [each for each in wait(list(running), 0.5) if isinstance(each, Connection)]
        late = [c for c in running if c not in ready and self._busy[c].is_late]
        return ready + late

    def _result(self, worker: _Worker) -> Any:
        result = worker.result()
        if worker.alive:
            self._idle.append(worker)
        return result


class _Worker:
    """One process."""

    def __init__(self) -> None:
        self.connection, theirs = _SPAWN.Pipe()
        self._process = _SPAWN.Process(target=_serve, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()
        self._began = time.monotonic()
        self._timeout = 0.0
        self.seconds = 0.0
        self.alive = True

    def start(self, task: Task[Any, Any], timeout: float) -> None:
        self._began, self._timeout = time.monotonic(), timeout
        self.connection.send((task.work, task.arguments))

    @property
    def is_late(self) -> bool:
        return time.monotonic() - self._began > self._timeout

    def result(self) -> Any:
        """What it returned, or a failure; a process that is late is ended."""
        self.seconds = time.monotonic() - self._began
        try:
            if self.connection.poll():
                return self.connection.recv()
            self.end()
            return Failure(f"did not end within {self._timeout:g} s", timed_out=True)
        except EOFError:
            self.end()
            return Failure(f"its process ended with status {self._process.exitcode}")

    def ask_to_end(self) -> None:
        with suppress(ProcessLookupError, AttributeError, ValueError):
            self._process.terminate()

    def end(self) -> None:
        self.alive = False
        self.ask_to_end()
        # It ends its compilers first, which may take their own time of grace.
        self._process.join(2 * GRACE_SECONDS)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self.connection.close()


def _serve(connection: Connection) -> None:
    """What a worker does: tasks, until the other end is gone or asks it to end."""
    # Ctrl-C reaches the whole terminal; the first process decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _interrupt)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with suppress(EOFError, BrokenPipeError, ConnectionResetError, KeyboardInterrupt):
        while True:
            work, arguments = connection.recv()
            try:
                result = work(*arguments)
            except Exception as error:
                problem = f"{type(error).__name__}: {error}"
                trace = "".join(traceback.format_exception(error))
                result = Failure(problem, trace, kind=type(error).__name__)
            connection.send(result)


def _end_with_parent() -> None:
    """End this process as its parent would have, once that is gone: it may have been killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt
