"""Chips of one scene and somebody who explains them in, finished rows of its saliency lattice on disk out.

The rows are appended to a work file as soon as no further chip reaches them, so memory holds a strip one chip high
whatever the size of the scene, and the length of the file is the progress: a process that was killed goes on at the
first unfinished row. The first line of the file is JSON that says what it is a part of; float32 rows follow, each
with all its bands one after the other.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlslicer_geo import files
from dlslicer_geo.errors import LayerError
from dlslicer_geo.layers.blend import Lattice, Strip
from dlslicer_geo.types import Progress, Saliency

log = logging.getLogger(__name__)

AT_ONCE = 256
"""Chips that are explained together at most: 13 MB of maps at 224 px and four depths."""

Ask = Callable[[NDArray[np.int64]], Saliency]
"""Explains chips by their numbers; never called with more than :data:`AT_ONCE`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is asked of the chips of one scene.

    Args:
        scene: the scene id.
        city: code of the city that is explained.
        method: as in :class:`~dlslicer_geo.types.Saliency`.
        layers: names of the depths, shallow to deep.
        rather_than: code of the one city that it is told from; empty for all others.
        identity: a hash of all that the answers depend on (weights, chips, pixels, options); work of another identity
            is never continued, and work without any is always done anew.
    """

    scene: str
    city: str
    method: str
    layers: tuple[str, ...]
    rather_than: str = ""
    identity: str = ""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Cut:
    """The chips of one scene, from the top down and from left to right.

    Args:
        chip_id: (n,) int64.
        windows: (n, 4) int64 row, col, height, width in scene pixels, all of one size.
        stride: pixels to the next chip.
    """

    chip_id: NDArray[np.int64]
    windows: NDArray[np.int64]
    stride: int

    @classmethod
    def of(cls, scene: str, chip_id: NDArray[np.int64], windows: NDArray[np.int64], stride: NDArray[np.int64]) -> Cut:
        """The chips in their order on the ground.

        Raises:
            LayerError: if there is none, or they differ in size or stride.
        """
        strides, sizes = np.unique(stride), np.unique(windows[:, 2:], axis=0)
        if not len(chip_id):
            raise LayerError(f"no chip of scene {scene} is to be explained: give one or more")
        if len(strides) > 1 or len(sizes) > 1:
            raise LayerError(
                f"scene {scene} has chips of {len(sizes)} sizes and {len(strides)} strides: explain chips of one cut"
            )
        order = np.lexsort((windows[:, 1], windows[:, 0]))
        return cls(chip_id=chip_id[order], windows=windows[order], stride=int(strides[0]))

    def hash(self) -> str:
        """SHA-256 over numbers and windows of all chips."""
        digest = hashlib.sha256(str(self.stride).encode())
        for values in (self.chip_id, self.windows):
            digest.update(np.ascontiguousarray(values).data)
        return digest.hexdigest()

    def rows(self) -> list[slice]:
        """The chips of every row of chips, long rows in parts of at most :data:`AT_ONCE`."""
        starts = np.flatnonzero(np.diff(self.windows[:, 0], prepend=-1))
        stops = [*starts[1:].tolist(), len(self.chip_id)]
        return [
            slice(at, min(at + AT_ONCE, stop))
            for start, stop in zip(starts.tolist(), stops, strict=True)
            for at in range(start, stop, AT_ONCE)
        ]

    def parts(self) -> list[list[slice]]:
        """:meth:`rows` together as they are asked for: the same ones after an interruption, so the same answers."""
        parts: list[list[slice]] = []
        for row in self.rows():
            if parts and row.stop - parts[-1][0].start <= AT_ONCE:
                parts[-1].append(row)
            else:
                parts.append([row])
        return parts


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Rows:
    """Rows of a saliency lattice in a work file; sliced like an array (bands, rows, cols), read when sliced.

    Args:
        path: the work file.
        start: where in the file the first row begins, in bytes.
        lattice: the cells.
        depths: bands beside the coverage.
        shifts: of every band, as of its layer in :class:`~dlslicer_geo.types.Saliency`.
        about: what the answers said of themselves: ``input_size``, ``notes``, ``approximate``, ``crs`` and
            ``transform``.
    """

    path: Path
    start: int
    lattice: Lattice
    depths: int
    shifts: Sequence[float]
    about: Mapping[str, Any]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Bands, rows, columns."""
        return (self.depths + 1, *self.lattice.shape)

    @property
    def dtype(self) -> np.dtype[np.float32]:
        """Always float32."""
        return np.dtype(np.float32)

    @property
    def bytes_per_row(self) -> int:
        """Bytes of one row of cells with all its bands."""
        return self.shape[0] * self.shape[2] * self.dtype.itemsize

    @property
    def done(self) -> int:
        """Finished rows; half a row at the end of the file is none."""
        return min((self.path.stat().st_size - self.start) // self.bytes_per_row, self.shape[1])

    def __getitem__(self, key: tuple[slice, slice]) -> NDArray[np.float32]:
        """Some rows of some bands."""
        bands, rows = key
        first, last, _ = rows.indices(self.shape[1])
        count, at = (last - first) * self.shape[0] * self.shape[2], self.start + first * self.bytes_per_row
        values = np.fromfile(self.path, self.dtype, count=count, offset=at)
        return values.reshape(last - first, self.shape[0], self.shape[2]).transpose(1, 0, 2)[bands]


def lay(ask: Ask, question: Question, cut: Cut, path: Path, *, progress: Progress) -> Rows:
    """Explain the chips of a scene and blend their maps, as far as that has not been done before.

    Args:
        ask: explains chips.
        question: what the answers must be about.
        cut: the chips.
        path: the work file.
        progress: watches the parts that are asked for.

    Returns:
        all rows of the lattice, complete.

    Raises:
        LayerError: if an answer is about other chips or depths than were asked for.
    """
    parts = cut.parts()
    rows = _resumed(path, question, cut)
    first: Saliency | None = None
    if rows is None:
        first = _answer(ask, question, cut, parts[0])
        rows = _begun(path, question, cut, first)
    strip = Strip(rows.lattice, shifts=rows.shifts, edge=int(cut.windows[0, 2]), first=rows.done)
    left = [part for part in parts if _end(rows.lattice, cut, part) > strip.first]
    with path.open("r+b") as target:
        target.truncate(rows.start + rows.done * rows.bytes_per_row)
        target.seek(0, os.SEEK_END)
        for part in progress(left, total=len(left), label=f"saliency of {question.scene}"):
            answer = first if first is not None and part is parts[0] else _answer(ask, question, cut, part)
            _add(strip, answer, cut, part, target)
        _append(target, strip.take(rows.lattice.shape[0]))
    return rows


def unanswered(question: Question, cut: Cut, path: Path) -> list[NDArray[np.int64]]:
    """The chips that :func:`lay` will ask about, in the order in which it does and together as it does."""
    rows, parts = _resumed(path, question, cut), cut.parts()
    left = parts if rows is None else [part for part in parts if _end(rows.lattice, cut, part) > rows.done]
    return [cut.chip_id[part[0].start : part[-1].stop] for part in left]


def identity_of(question: Question, cut: Cut) -> str:
    """SHA-256 over a question and its chips; empty for a question without identity."""
    return files.sha256_json([asdict(question), cut.hash()]) if question.identity else ""


def _resumed(path: Path, question: Question, cut: Cut) -> Rows | None:
    """The work that was begun on the same question; None where there is none."""
    identity = identity_of(question, cut)
    if not identity or not path.exists():
        return None
    with path.open("rb") as source:
        line = source.readline()
    try:
        head = json.loads(line)
    except ValueError:  # killed within the first line
        return None
    if not line.endswith(b"\n") or head["identity"] != identity:
        return None
    rows = _rows(path, len(line), cut, head)
    log.info("%s: %d of %d rows are there", path, rows.done, rows.lattice.shape[0])
    return rows


def _begun(path: Path, question: Question, cut: Cut, answer: Saliency) -> Rows:
    """A work file without rows, that says what the first answer said of all."""
    grid = answer.grids[question.scene]
    head = {
        "identity": identity_of(question, cut),
        "cells": list(answer.maps[answer.layers[0]].shape[1:]),
        "depths": len(answer.layers),
        "shifts": [answer.shift.get(name, 0.0) for name in answer.layers],
        "about": {
            "input_size": answer.input_size,
            "notes": dict(answer.notes),
            "approximate": question.scene in answer.approximate,
            "crs": str(grid.crs),
            "transform": list(grid.affine)[:6],
        },
    }
    line = json.dumps(head).encode() + b"\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(line)
    return _rows(path, len(line), cut, head)


def _rows(path: Path, start: int, cut: Cut, head: Mapping[str, Any]) -> Rows:
    down, across = head["cells"]
    lattice = Lattice.over(cut.windows, cut.stride, (down, across))
    depths, shifts = head["depths"], head["shifts"]
    return Rows(path=path, start=start, lattice=lattice, depths=depths, shifts=shifts, about=head["about"])


def _end(lattice: Lattice, cut: Cut, part: Sequence[slice]) -> int:
    """The row of cells after the last one that a part's chips reach."""
    row, _, height, _ = cut.windows[part[-1].stop - 1]
    return int(np.ceil((row + height) / lattice.cell[0] - 1e-9)) - lattice.origin[0]


def _answer(ask: Ask, question: Question, cut: Cut, part: Sequence[slice]) -> Saliency:
    """What is said of a part's chips."""
    wanted = cut.chip_id[part[0].start : part[-1].stop]
    answer = ask(wanted)
    about = (answer.layers, set(answer.city), answer.method, answer.rather_than)
    if about != (question.layers, {question.city}, question.method, question.rather_than):
        raise LayerError(
            f"scene {question.scene}: asked why {question.city} by {question.method} at {', '.join(question.layers)}"
            f" and was told why {', '.join(sorted(set(answer.city)))} by {answer.method} at "
            f"{', '.join(answer.layers)}: answer what is asked"
        )
    if not np.array_equal(np.sort(answer.chip_id), np.sort(wanted)):
        raise LayerError(
            f"scene {question.scene}: asked about {len(wanted)} chips and was told about {len(answer)}, not the same "
            "ones: answer for the chips that are asked about"
        )
    return answer


def _add(strip: Strip, answer: Saliency, cut: Cut, part: Sequence[slice], target: Any) -> None:
    """Blend the rows of chips of one answer, writing what each of them finishes."""
    by_id = np.argsort(answer.chip_id)
    for row in part:
        windows = cut.windows[row]
        at = by_id[np.searchsorted(answer.chip_id, cut.chip_id[row], sorter=by_id)]
        _append(target, strip.take(strip.lattice.first_row(int(windows[0, 0]))))
        strip.add([answer.maps[name][at] for name in answer.layers], windows)


def _append(target: Any, finished: Iterator[NDArray[np.float32]]) -> None:
    before = target.tell()
    for block in finished:
        target.write(np.ascontiguousarray(block).data)
    if target.tell() > before:
        target.flush()
        os.fsync(target.fileno())
