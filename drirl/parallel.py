"""Run one function over several items in processes side by side, each with its own thread count.

Importing the training stack costs several seconds of CPU. A fork server pays that once and every item starts
from a fork of it; the calling process need not import the stack at all.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerProcess
from typing import Any, TypeVar

from drirl.errors import DrirlError

__all__ = ["WorkerError", "map_processes"]

T = TypeVar("T")
R = TypeVar("R")

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")

_M_MMAP_THRESHOLD, _KEPT = -3, 1 << 30
_MALLOC = {"MALLOC_MMAP_THRESHOLD_": str(_KEPT), "MALLOC_TRIM_THRESHOLD_": str(_KEPT)}
"""For a glibc that takes them (some versions do not; others ignore them): blocks under 1 GiB stay with the
process for the next tensor. By default large ones go back to the kernel at once and every page of the next
is faulted in anew: 1.6 million faults in one seed of grpo_irl, 67 thousand so, in 6 to 11 % less time at the
same peak of memory."""


class WorkerError(RuntimeError):
    """An item failed with something other than a user's mistake; the text holds the worker's traceback."""


def map_processes(
    function: Callable[[T], R],
    items: Sequence[T],
    *,
    workers: int = 0,
    threads: int = 1,
    preload: Sequence[str] = (),
) -> list[R]:
    """Return ``[function(item) for item in items]``, computed in processes.

    Args:
        function: importable by name (module level); it and the items are pickled.
        workers: processes at a time; 0 starts all items at once.
        threads: CPU threads of each process.
        preload: modules imported once before the processes fork (the first call in a process decides).
    Raises:
        DrirlError: the one an item raised, or an item's process was killed.
        WorkerError: an item raised anything else.
        The first failure ends the other processes.
    """
    if not items:
        return []
    limit = workers or len(items)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*preload])
    results: dict[int, R] = {}
    running: dict[Connection, tuple[int, ForkServerProcess]] = {}
    waiting = list(enumerate(items))
    _flush()
    with _environment(threads):
        try:
            while waiting or running:
                while waiting and len(running) < limit:
                    index, item = waiting.pop(0)
                    receiver, sender = context.Pipe(duplex=False)
                    process = context.Process(
                        target=_work, args=(function, item, threads, sender), daemon=False
                    )
                    process.start()
                    sender.close()
                    running[receiver] = (index, process)
                for ready in wait(list(running)):
                    assert isinstance(ready, Connection)
                    index, process = running.pop(ready)
                    results[index] = _receive(ready, process)
        finally:
            for connection, (_, process) in running.items():
                process.terminate()
                process.join()
                connection.close()
    return [results[index] for index in range(len(items))]


def _receive(connection: Connection, process: ForkServerProcess) -> Any:
    try:
        status, value = connection.recv()
    except EOFError:
        process.join()
        code = process.exitcode or 0
        reason = (
            f"signal {-code}, often out of memory: lower run.workers" if code < 0 else f"exit code {code}"
        )
        raise DrirlError(f"a worker process ended without a result ({reason})") from None
    finally:
        connection.close()
    process.join()
    if status == "done":
        return value
    if status == "mistake":
        raise DrirlError(value)
    raise WorkerError(value)


def _work(function: Callable[[Any], Any], item: Any, threads: int, sender: Connection) -> None:
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    for name in _THREAD_VARIABLES:
        os.environ[name] = str(threads)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)
    try:
        message = ("done", function(item))
    except DrirlError as error:
        message = ("mistake", str(error))
    except KeyboardInterrupt:
        os._exit(130)
    except BaseException:
        message = ("failed", traceback.format_exc())
    sender.send(message)
    sender.close()
    _flush()


def _exit_with_parent() -> None:
    """Leave as soon as the process that started this one is gone, however it went."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


class _environment:  # noqa: N801
    """Variables set while the fork server starts: OpenMP reads them when torch is imported, malloc at once.

    Those of malloc that the user has set stay as they are.
    """

    def __init__(self, threads: int) -> None:
        self.values = {name: os.environ.get(name, value) for name, value in _malloc().items()}
        self.values |= dict.fromkeys(_THREAD_VARIABLES, str(threads))

    def __enter__(self) -> None:
        self.old = {name: os.environ.get(name) for name in self.values}
        os.environ.update(self.values)

    def __exit__(self, *_: object) -> None:
        for name, value in self.old.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _malloc() -> dict[str, str]:
    """Return the settings of malloc, none where the C library refuses so large a threshold."""
    try:
        taken = ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _KEPT)
    except (AttributeError, OSError, TypeError):
        return {}
    return dict(_MALLOC) if taken == 1 else {}


def _flush() -> None:
    sys.stdout.flush()
    sys.stderr.flush()
