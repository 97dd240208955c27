"""Where CPU work is to be done in, the executor that does it out: threads, processes, or a Dask cluster."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Executor, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from importlib import import_module
from threading import Thread
from typing import Any

from dlslicer_geo.errors import ConfigError, DlslicerError
from dlslicer_geo.types import Compute

CONNECT_S = 10
"""Seconds within which a Dask scheduler must answer, and have a worker."""

WORTH_BYTES = 64 << 20
"""A process takes about 2 s to start; to read so many bytes takes longer than that, ten times so from JPGs."""

MANY = 256
"""Tasks of some hundredths of a second from which on processes are worth their start."""

ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "GDAL_NUM_THREADS")

GDAL_CACHE = 5.0
"""Per cent of the memory that GDAL takes by itself for blocks, which the processes share."""


@contextmanager
def pool(compute: Compute, at_most: int | None = None, *, reads: int | None = None) -> Iterator[Executor]:
    """An executor for tasks that can be pickled: top-level functions with plain arguments.

    Args:
        compute: a Dask scheduler goes first, then the number of processes.
        at_most: tasks there are; more workers than that are not started.
        reads: bytes of the files that all tasks read; where ``compute.processes`` is 0, threads of this process read
            a few of them sooner than others have started.

    Yields:
        the executor; what it has not begun when the block ends is cancelled, what it has begun is finished.

    Raises:
        ConfigError: if the Dask scheduler cannot be used.
        DlslicerError: if a worker dies.
    """
    number = max(1, min(compute.processes or os.cpu_count() or 1, at_most or 1 << 16))
    if compute.scheduler:
        with _cluster(compute.scheduler) as executor:
            yield executor
        return
    few = reads is not None and reads < WORTH_BYTES and not compute.processes
    made = ThreadPoolExecutor(number) if few or number == 1 else _processes(number)
    try:
        yield made
    except BrokenProcessPool:
        raise DlslicerError(
            _died(f"one of {number} worker processes", "take fewer with --compute.processes")
        ) from None
    finally:
        made.shutdown(cancel_futures=True)


@contextmanager
def pool_for_many(compute: Compute, tasks: int) -> Iterator[Executor | None]:
    """An executor as of :func:`pool`, or None for few short tasks: they are done before others have started."""
    if tasks <= MANY and not compute.scheduler:
        yield None
        return
    with pool(compute, tasks) as executor:
        yield executor


def _processes(number: int) -> ProcessPoolExecutor:
    # forking beside threads of GDAL or torch can hang for ever
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(number, context, _begin, (number,))


def _begin(number: int) -> None:
    """What a worker process does first."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's affair, who lets the tasks in hand finish
    os.environ.update(dict.fromkeys(ONE_THREAD, "1"))
    os.environ.setdefault("GDAL_CACHEMAX", f"{GDAL_CACHE / number:.3f}%")
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    threadpool_limits(1)  # for what is loaded already
    parent = multiprocessing.parent_process()
    if parent is not None:
        Thread(target=_end_with, args=(parent.join,), daemon=True).start()


def _end_with(join: Callable[[], Any]) -> None:
    """End when the parent does, however it does: a killed one cannot say so."""
    join()
    os._exit(1)


@contextmanager
def _cluster(address: str) -> Iterator[Executor]:
    client = _client(address)
    from distributed import KilledWorker
    from distributed.comm.core import CommClosedError

    lost = f"a worker of the Dask cluster at {address}"
    try:
        yield client.get_executor()
    except KilledWorker:
        raise DlslicerError(_died(lost, "give the workers more")) from None
    except (CommClosedError, CancelledError):
        raise DlslicerError(
            f"the Dask scheduler at {address} is gone, and with it the scenes in hand: start it and run again, what "
            "is finished stays"
        ) from None
    finally:
        client.close()


def _client(address: str) -> Any:
    try:
        distributed: Any = import_module("distributed")
    except ImportError:
        raise ConfigError(
            f"compute.scheduler is {address}, which needs Dask: pip install 'dlslicer-geo[dask]'"
        ) from None
    try:
        client = distributed.Client(address, timeout=CONNECT_S, set_as_default=False)
    except (OSError, ValueError) as error:  # of which its own TimeoutError is one
        said = " ".join(str(error).split())[:200]
        raise ConfigError(
            f"nobody answers at compute.scheduler {address} within {CONNECT_S} s ({said}): give the address that "
            "`dask scheduler` prints"
        ) from None
    try:
        client.wait_for_workers(1, timeout=CONNECT_S)
    except TimeoutError:
        client.close()
        raise ConfigError(
            f"the Dask scheduler at {address} has had no worker for {CONNECT_S} s: start some with `dask worker "
            f"{address}`"
        ) from None
    return client


def _died(who: str, advice: str) -> str:
    return (
        f"{who} died, perhaps for want of memory ({advice}): what it had in hand is lost, nothing half-written is "
        "kept; run again, what is finished stays"
    )
