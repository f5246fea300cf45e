"""Running what a learner wrote: for a limited time, and so that nothing of theirs is changed afterwards.

The work runs in a thread of its own, which is the one way that serves notebooks, Windows and the main thread of a
kernel alike. When its time is up, an exception is thrown into the thread: that ends any loop in Python, at its next
line. It cannot end one long call into C (a sleep, a product of huge matrices), nor a loop that catches everything; the
learner then gets the notebook back all the same, and is told that the old run goes on until the kernel restarts.
"""

import contextvars
import ctypes
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

import numpy as np
import torch

T = TypeVar("T")

STACK_BYTES = 64 * 2**20  # a thread's own stack is small on some systems, and endless recursion must not crash there
GRACE_SECONDS = 1.0


class TimeUp(BaseException):
    """Thrown into work that runs too long; being no ``Exception``, few learners' code catches it."""


class OutOfTime(Exception):
    """Work that did not end in time; ``stopped`` says whether it has ended now."""

    def __init__(self, seconds: float, stopped: bool) -> None:
        super().__init__(seconds, stopped)
        self.seconds, self.stopped = seconds, stopped


class _Worker(threading.Thread, Generic[T]):
    def __init__(self, work: Callable[[], T]) -> None:
        super().__init__(name="check", daemon=True)  # a daemon, so that a run that cannot be ended ends with Python
        self.work, self.context = work, contextvars.copy_context()  # with it, what is printed reaches its cell
        self.threads = torch.get_num_threads()
        self.result: list[T] = []
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            torch.set_num_threads(self.threads)
            self.result.append(self.context.run(self.work))
        except BaseException as error:  # also exit() and the like: they must not pass for an answer
            self.error = error


def limited(work: Callable[[], T], seconds: float) -> T:
    """Return ``work()``, or raise what it raises; leave it when the time is up.

    Raises:
        OutOfTime: if it has not ended after ``seconds``.
    """
    worker = _Worker(work)
    before = threading.stack_size(STACK_BYTES)
    try:
        worker.start()
    finally:
        threading.stack_size(before)
    try:
        # In slices, because on some systems a wait in one piece cannot be interrupted by the stop button.
        for _ in range(max(1, round(seconds / 0.05))):
            worker.join(0.05)
            if not worker.is_alive():
                break
    except BaseException:
        _stop(worker)
        raise
    if worker.is_alive():
        raise OutOfTime(seconds, stopped=_stop(worker))
    if worker.error is not None:
        raise worker.error
    return worker.result[0]


def _stop(worker: threading.Thread) -> bool:
    """Throw :class:`TimeUp` into the thread until it ends, for a second at most; say whether it has ended."""
    for _ in range(round(GRACE_SECONDS / 0.05)):
        if worker.ident is not None and worker.is_alive():
            thread, error = ctypes.c_ulong(worker.ident), ctypes.py_object(TimeUp)
            ctypes.pythonapi.PyThreadState_SetAsyncExc(thread, error)
        worker.join(0.05)
        if not worker.is_alive():
            return True
    return False


@contextmanager
def untouched() -> Iterator[None]:
    """Leave every random number generator and torch's settings as they were, whatever happens inside."""
    python, array = random.getstate(), np.random.get_state()
    dtype, threads = torch.get_default_dtype(), torch.get_num_threads()
    cuda = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    apple = torch.mps.get_rng_state() if torch.backends.mps.is_available() else None
    try:
        with torch.random.fork_rng(devices=cuda):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(array)
        torch.set_default_dtype(dtype)
        torch.set_num_threads(threads)
        if apple is not None:
            torch.mps.set_rng_state(apple)
