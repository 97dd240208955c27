"""A store's folder in, pixels of chips out: one memory-mapped file per scene, in the format of safetensors."""

from __future__ import annotations

import hashlib
import json
import os
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dlslicer_geo.data.layout import Layout
from dlslicer_geo.files import sha256_json
from dlslicer_geo.types import channels_of

FORMAT = 2
"""Changes with the meaning of the files or of the pixels."""

OPEN_FILES = 4096
"""Files that are mapped at a time, in each process; an open map holds no file descriptor."""

UNSEEN, ABSENT = -2, -1
"""Place of a chip whose scene has not been looked up, and of one that no file holds."""

Integers = NDArray[np.int64]
Pixels = NDArray[np.uint8]


def path_of(folder: Path, scene_id: str) -> Path:
    """The file of a scene."""
    return folder / f"{scene_id}.safetensors"


def key_of(record: Mapping[Any, Any]) -> str:
    """What the pixels of a scene's chips depend on beside their windows and size."""
    channels = channels_of(record)
    own = [str(record[name]) for name in ("sha256", "crs", "width", "height", "dtype")]
    place = [float(value) for value in record["transform"]]
    return sha256_json([FORMAT, torch.__version__, own, place, channels.bands, channels.low, channels.high])


class Book:
    """The chips of one scene, mapped from their file.

    Args:
        windows: (n, 4) row, col, height and width.
        layout: where they lie.
        rims: as ``layout.rims`` says.
        interiors: flat.
    """

    def __init__(self, windows: Integers, layout: Layout, rims: Pixels, interiors: Pixels) -> None:
        self.windows, self.layout, self.rims, self.interiors = windows, layout, rims, interiors
        inner = layout.size - 2 * layout.rim
        self._shape, self._at = (inner, inner * 3), layout.at.tolist()

    @classmethod
    def open(cls, path: Path, key: str, size: int) -> Book | None:
        """Map a file; None where there is none, or one of other pixels."""
        try:
            mapped = np.memmap(path, np.uint8, mode="r")
            begin = 8 + int(mapped[:8].view("<u8")[0])
            header = json.loads(mapped[8:begin].tobytes())
            said = header.pop("__metadata__")
            if said["key"] != key or said["size"] != str(size):
                return None
            book = cls._of({name: _tensor(mapped[begin:], entry) for name, entry in header.items()}, said)
            return book if said["index"] == _index(header, said, book.windows, book.layout.at) else None
        except (OSError, ValueError, LookupError, TypeError, AttributeError):  # none, or a damaged or foreign one
            return None

    @classmethod
    def create(cls, path: Path, key: str, windows: Integers, layout: Layout) -> Book:
        """Make a file whose pixels are yet to be put in.

        Raises:
            OSError: if the disk has no room for it.
        """
        shapes = {
            "windows": windows.shape,
            "at": layout.at.shape,
            "rims": layout.rims,
            "interiors": (layout.interiors,),
        }
        said = {"key": key, "size": str(layout.size), "rim": str(layout.rim)}
        header: dict[str, Any] = {}
        end = 0
        for name, shape in shapes.items():
            kind, width = ("I64", 8) if name in ("windows", "at") else ("U8", 1)
            begin, end = end, end + int(np.prod(shape)) * width
            header[name] = {"dtype": kind, "shape": list(shape), "data_offsets": [begin, end]}
        said["index"] = _index(header, said, windows, layout.at)
        text = json.dumps({"__metadata__": said} | header).encode()
        text += b" " * (-len(text) % 8)
        _make(path, np.array(len(text), "<u8").tobytes() + text, end)
        mapped = np.memmap(path, np.uint8, mode="r+", shape=(8 + len(text) + end,))
        book = cls._of({name: _tensor(mapped[8 + len(text) :], entry) for name, entry in header.items()}, said)
        book.windows[:], book.layout.at[:] = windows, layout.at
        book._at = layout.at.tolist()
        return book

    @classmethod
    def _of(cls, tensors: Mapping[str, Any], said: Mapping[str, str]) -> Book:
        rim, interiors = int(said["rim"]), tensors["interiors"]
        layout = Layout(at=tensors["at"], size=int(said["size"]), rim=rim, interiors=len(interiors))
        return cls(tensors["windows"], layout, tensors["rims"], interiors)

    def places(self, windows: Integers) -> Integers:
        """(k,) where chips stand in this book, ``ABSENT`` for those that do not."""
        names = np.concatenate([self.windows, windows])
        number = np.unique(names, axis=0, return_inverse=True)[1].ravel()
        place = np.full(len(names), ABSENT)
        place[number[: len(self.windows)]] = np.arange(len(self.windows))
        return place[number[len(self.windows) :]]

    def copy(self, place: int, image: Pixels) -> None:
        """Copy a chip into ``image`` (size, size, 3)."""
        rim, inner = self.layout.rim, self._interior(place)
        if not rim:
            image.reshape(self._shape)[:] = inner
            return
        image.reshape(len(image), -1)[rim:-rim, 3 * rim : -3 * rim] = inner
        top, bottom, left, right = self.rims[place]
        image[:rim], image[-rim:] = top, bottom
        image[:, :rim], image[:, -rim:] = left.swapaxes(0, 1), right.swapaxes(0, 1)

    def put(self, place: int, image: Pixels) -> None:
        """Write a chip, over what it shares with others."""
        rim = self.layout.rim
        end = len(image) - rim
        self._interior(place)[:] = image[rim:end, rim:end].reshape(self._shape)
        if rim:
            sides = image[:rim], image[-rim:], image[:, :rim].swapaxes(0, 1), image[:, -rim:].swapaxes(0, 1)
            self.rims[place] = np.stack(sides)

    def _interior(self, place: int) -> Pixels:
        begin, pitch = self._at[place]
        return np.ndarray(self._shape, np.uint8, self.interiors, begin, (pitch, 1))


class Shelf:
    """The files of a store, for the chips of one table; those that are not there are the caller's to read.

    Args:
        folder: the store.
        records: the scenes.
        scene_of: (n,) number of each chip's scene.
        windows: (n, 4) row, col, height and width of each chip.
        sizes: (n,) edge of each chip after resampling.
    """

    def __init__(
        self,
        folder: Path,
        records: Sequence[Mapping[Any, Any]],
        scene_of: Integers,
        windows: Integers,
        sizes: Integers,
    ) -> None:
        self.folder, self.records = folder, records
        self.scene_of, self.windows, self.sizes = scene_of, windows, sizes
        self._order = np.argsort(scene_of, kind="stable")
        self._begins = np.searchsorted(scene_of[self._order], np.arange(len(records) + 1))
        self.place: Integers = np.full(len(scene_of), UNSEEN)
        self._books: OrderedDict[int, Book] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        """Leave the maps behind: every worker makes its own."""
        return self.__dict__ | {"_books": OrderedDict()}

    def fill(self, images: Pixels, indices: Integers) -> Integers:
        """Copy chips into ``images`` (B, size, size, 3).

        Args:
            images: room for the pixels.
            indices: (B,) the chips.

        Returns:
            Positions in ``indices`` of the chips that are not in the store.
        """
        numbers = self.scene_of[indices]
        for number in np.unique(numbers[self.place[indices] == UNSEEN]).tolist():
            self._look_up(number)
        place = self.place[indices]
        there = np.flatnonzero(place >= 0)
        for i, number, at in zip(there.tolist(), numbers[there].tolist(), place[there].tolist(), strict=True):
            book = self._book(number)
            if book is None:  # removed meanwhile
                self.place[indices[i]] = place[i] = ABSENT
            else:
                book.copy(at, images[i])
        return np.flatnonzero(place < 0)

    def _look_up(self, number: int) -> None:
        """Find the place of all chips of a scene."""
        chips = self._order[self._begins[number] : self._begins[number + 1]]
        self.place[chips] = ABSENT
        book = self._book(number)
        if book is not None:
            same = chips[self.sizes[chips] == book.layout.size]
            self.place[same] = book.places(self.windows[same])

    def _book(self, number: int) -> Book | None:
        if number in self._books:
            self._books.move_to_end(number)
            return self._books[number]
        record, size = self.records[number], int(self.sizes[self._order[self._begins[number]]])
        book = Book.open(path_of(self.folder, record["scene_id"]), key_of(record), size)
        if book is not None:
            if len(self._books) >= OPEN_FILES:
                self._books.popitem(last=False)
            self._books[number] = book
        return book


def _index(header: Mapping[str, Any], said: Mapping[str, str], windows: Integers, at: Integers) -> str:
    """A hash of everything in a file but the pixels: a byte that flipped there would show another chip."""
    places = hashlib.sha256(np.concatenate([windows, at], axis=1).tobytes()).hexdigest()
    return sha256_json([header, said["key"], said["size"], said["rim"], places])


def _make(path: Path, head: bytes, body: int) -> None:
    """A file of ``head`` and zeros that take their room now: a map that outgrows the disk would end the process."""
    with path.open("wb") as file:
        file.write(head)
        file.flush()
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, len(head) + body)
            return
        for begin in range(0, body, 1 << 20):
            file.write(bytes(min(1 << 20, body - begin)))


def _tensor(body: Pixels, entry: Mapping[str, Any]) -> NDArray[Any]:
    begin, end = entry["data_offsets"]
    kind = np.dtype("<i8") if entry["dtype"] == "I64" else np.dtype(np.uint8)
    return np.asarray(body)[begin:end].view(kind).reshape(entry["shape"])
