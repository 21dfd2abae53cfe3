# SPDX-License-Identifier: GPL-2.0-or-later
"""Jobs side by side, and all of them ended when one fails or the user interrupts."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, ParamSpec, TypeVar

from livegraft.run import GRACE_SECONDS

P = ParamSpec("P")
T = TypeVar("T")

AHEAD = 8
"""As many jobs per thread are begun or wait before the first of their results is taken."""


class Jobs:
    """A few threads, each of which mostly waits for a program that it has started.

    An interrupt reaches the main thread only. When the block is left by an exception, the programs
    that the threads wait for are ended, so the threads end at once and not when the download does.

    Args:
        workers: how many jobs run at a time.
    """

    def __init__(self, workers: int) -> None:
        self._threads: set[int] = set()
        self._futures: list[Future[Any]] = []
        self._pool = ThreadPoolExecutor(workers, initializer=self._register)

    def __enter__(self) -> Jobs:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None:
            self._end()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def start(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Begin a job as soon as a thread is free."""
        future = self._pool.submit(work, *args, **kwargs)
        self._futures.append(future)
        return future

    def finish(self, *futures: Future[Any]) -> None:
        """Wait for jobs.

        Raises:
            Exception: that of the first job to fail, whether it is waited for or not, and at once.
        """
        while True:
            done = all(future.done() for future in futures)
            self._raise_failed()
            if done:
                return
            running = [future for future in self._futures if not future.done()]
            wait(running, return_when=FIRST_COMPLETED)

    def _raise_failed(self) -> None:
        done = [future for future in self._futures if future.done()]
        for future in done:
            if not future.cancelled() and (error := future.exception()):
                raise error
        # Those that ended well need no second look: there may be thousands.
        self._futures = [future for future in self._futures if future not in done]

    def _register(self) -> None:
        self._threads.add(threading.get_native_id())

    def _end(self) -> None:
        """End what the threads have started until all of them have noticed.

        Each program is asked once, so that it removes its temporary files, and killed later.
        """
        for future in self._futures:
            future.cancel()
        asked: set[int] = set()
        patient_until = time.monotonic() + GRACE_SECONDS
        while not all(future.done() for future in self._futures):
            patient = time.monotonic() < patient_until
            for child in {child for thread in tuple(self._threads) for child in _children(thread)}:
                if patient and child in asked:
                    continue
                # Each program leads a process group of its own (livegraft.run), once it has begun.
                with suppress(ProcessLookupError, PermissionError):
                    os.killpg(child, signal.SIGTERM if patient else signal.SIGKILL)
                    asked.add(child)
            time.sleep(0.02)


def in_order(
    tasks: Iterable[Callable[[], T]],
    workers: int | None = None,
    advance: Callable[[], object] | None = None,
) -> Generator[T]:
    """Run tasks on all cores, as many at a time, and give their results in the tasks' order.

    Only so many are begun that the results which wait to be taken are few. Whoever may leave early
    closes the iterator (:func:`contextlib.closing`): what is running then is ended.

    Args:
        tasks: taken one after the other, as there is room.
        workers: how many run at a time; by default one per core.
        advance: called for each result.

    Raises:
        Exception: that of the first task to fail; the others are ended.
    """
    count = workers or os.cpu_count() or 2
    waiting = deque[Future[T]]()

    def first() -> T:
        jobs.finish(waiting[0])
        if advance is not None:
            advance()
        return waiting.popleft().result()

    with Jobs(count) as jobs:
        for task in tasks:
            waiting.append(jobs.start(task))
            if len(waiting) >= AHEAD * count:
                yield first()
        while waiting:
            yield first()


def _children(thread: int) -> list[int]:
    """The processes that one thread of this process has started (proc(5), ``children``)."""
    try:
        text = Path(f"/proc/self/task/{thread}/children").read_text("ascii")
    except OSError:
        return []
    return [int(word) for word in text.split()]
