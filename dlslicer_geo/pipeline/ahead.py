"""An iterator in; its items out, made by a thread while those before them are worked on."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import CancelledError
from contextlib import closing, contextmanager
from queue import Full, Queue
from threading import Event, Thread
from typing import Any, TypeVar

from dlslicer_geo.types import Progress

T = TypeVar("T")

LISTEN = 0.1
"""Seconds after which a thread that waits for room looks whether it is still needed."""


@contextmanager
def ahead(items: Generator[T, None, None], *, most: int = 1, over: Event | None = None) -> Iterator[Iterator[T]]:
    """Let a thread make the next items of a generator meanwhile.

    Args:
        items: a generator; the thread runs and closes it.
        most: finished items that wait at most; one more is being made.
        over: is set when the block ends, for a generator that can stop within an item (:func:`until`).

    Yields:
        the items, in their order; an error of the generator is raised where its item would come. When the block
        ends, however it does, the thread ends with the item at which it is.
    """
    ready: Queue[tuple[str, Any]] = Queue(most)
    over = over or Event()

    def put(kind: str, value: Any = None) -> None:
        while not over.is_set():
            try:
                return ready.put((kind, value), timeout=LISTEN)
            except Full:
                continue

    def make() -> None:
        try:
            with closing(items):
                for item in items:
                    put("item", item)
                    if over.is_set():
                        return
            put("end")
        except BaseException as error:  # raised again where somebody waits for it
            put("error", error)

    thread = Thread(target=make, name="ahead", daemon=True)
    thread.start()
    try:
        yield _taken(ready)
    finally:
        over.set()
        thread.join()


def until(over: Event) -> Progress:
    """A progress that lets nothing more come once somebody has set the event, but ends what asks for it."""

    def watched(items: Iterable[T], *, total: int, label: str) -> Iterator[T]:
        for item in items:
            if over.is_set():
                raise CancelledError(f"{label}: stopped")
            yield item

    return watched


def _taken(ready: Queue[tuple[str, Any]]) -> Iterator[Any]:
    while True:
        kind, value = ready.get()
        if kind == "error":
            raise value
        if kind == "end":
            return
        yield value
