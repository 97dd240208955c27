"""Scene table and chip table in, chips as samples and batches out, each read from its own scene or from a store."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from dlslicer_geo import pixels
from dlslicer_geo.data.scenes import SceneReader
from dlslicer_geo.data.shelf import Shelf
from dlslicer_geo.errors import SceneError, TableError
from dlslicer_geo.types import Scene, channels_of

if TYPE_CHECKING:
    from geopandas import GeoDataFrame

UNKNOWN = -1
"""Label of a chip whose city is unknown, or not among the data module's cities."""

OPEN_SCENES = 32
"""Scenes a chip dataset keeps open at a time, in each process."""

Integers = NDArray[np.int64]


class ChipDataset(Dataset[dict[str, Tensor]]):
    """Chips of many scenes behind one integer index, each read from its own scene.

    A sample holds ``image`` uint8 (3, size, size), ``label`` int64 (index into ``cities``, -1 when unknown),
    ``chip_id`` int64 and ``bounds`` float64 (xmin, ymin, xmax, ymax) in the CRS of its scene; :meth:`batch` gives
    many at once. The pixels are those of ``SceneReader.read``, wherever they come from.

    Args:
        scenes: scene table.
        chips: chip table, or some of its rows; sample i is row i.
        cities: codes in the order of the labels.
        store: folder that :func:`~dlslicer_geo.data.write_store` filled; chips that are in it are copied from there.

    Raises:
        SceneError: if the channels of a scene are not among its bands or nothing says how its pixels become uint8,
            and when a chip is asked for, if its file is gone or damaged.
    """

    def __init__(
        self, scenes: GeoDataFrame, chips: GeoDataFrame, cities: Sequence[str], *, store: str | Path | None = None
    ) -> None:
        used = scenes[scenes["scene_id"].isin(chips["scene_id"].unique())]
        self.records: list[dict[Any, Any]] = used.drop(columns="geometry", errors="ignore").to_dict("records")
        for record in self.records:
            _check_pixels(record)
        at = {record["scene_id"]: i for i, record in enumerate(self.records)}
        index = {code: i for i, code in enumerate(cities)}
        self.scene_of: Integers = np.asarray(chips["scene_id"].map(at), np.int64)
        self.windows: Integers = chips[["row", "col", "height", "width"]].to_numpy(np.int64)
        self.sizes: Integers = chips["size"].to_numpy(np.int64)
        self.labels: Integers = np.asarray(chips["city"].map(index).fillna(UNKNOWN), np.int64)
        self.chip_ids: Integers = np.asarray(chips["chip_id"], np.int64)
        self.bounds = _bounds(self.records, self.scene_of, self.windows)
        self.shelf = Shelf(Path(store), self.records, self.scene_of, self.windows, self.sizes) if store else None
        self._open: OrderedDict[int, SceneReader] = OrderedDict()
        self._opened_by = os.getpid()

    def __len__(self) -> int:
        return len(self.chip_ids)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return self.__getitems__([int(index)])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Tensor]]:
        """The samples of a batch, for loaders that put them together by themselves."""
        batch = self.batch(np.asarray(indices, np.int64))
        return [{name: values[i] for name, values in batch.items()} for i in range(len(indices))]

    def batch(self, indices: Integers) -> dict[str, Tensor]:
        """Samples in any order as one batch.

        Args:
            indices: (B,) positions in the chip table.

        Returns:
            ``image`` uint8 (B, 3, size, size), channels last in memory, ``label`` and ``chip_id`` int64 (B,),
            ``bounds`` float64 (B, 4).

        Raises:
            TableError: if the chips are not all of one size.
        """
        images = self.blank(indices)
        self.fill(images, indices)
        return self.labelled(images, indices)

    def blank(self, indices: Integers) -> NDArray[np.uint8]:
        """Room for the pixels of chips: uint8 (B, size, size, 3)."""
        sizes = np.unique(self.sizes[indices])
        if len(sizes) > 1:
            raise TableError(f"chips of {sizes[0]} and {sizes[-1]} px are in one batch: cut all scenes with one grid")
        size = int(sizes[0]) if len(sizes) else 0
        return np.empty((len(indices), size, size, 3), np.uint8)

    def fill(self, images: NDArray[np.uint8], indices: Integers) -> None:
        """Put the pixels of chips into ``images``, from the store or window by window."""
        missing = np.arange(len(indices)) if self.shelf is None else self.shelf.fill(images, indices)
        for i in missing.tolist():
            number = int(self.scene_of[indices[i]])
            row, col, height, width = self.windows[indices[i]].tolist()
            with self.reading(number) as reader:
                images[i] = reader.read((row, col, height, width), images.shape[1]).permute(1, 2, 0).numpy()

    def labelled(self, images: NDArray[np.uint8], indices: Integers) -> dict[str, Tensor]:
        """The batch that these pixels belong to."""
        return {
            "image": torch.from_numpy(images).permute(0, 3, 1, 2),
            "label": torch.from_numpy(self.labels[indices]),
            "chip_id": torch.from_numpy(self.chip_ids[indices]),
            "bounds": torch.from_numpy(self.bounds[indices]),
        }

    def scene(self, number: int) -> Scene:
        """The scene that ``scene_of`` has this number for."""
        return Scene.from_record(self.records[number])

    @contextmanager
    def reading(self, number: int) -> Iterator[SceneReader]:
        """The open file of a scene, for a read inside the block.

        Raises:
            SceneError: if the file is gone or damaged.
        """
        try:
            yield self._reader(number)
        except OSError as error:  # rasterio's errors about files are OSErrors
            scene_id, path = self.records[number]["scene_id"], self.records[number]["path"]
            said = pixels.words(error)
            raise SceneError(
                f"scene {scene_id} cannot be read from {path} ({said}): put the file back, or scan again"
            ) from error

    def open_scene(self, scene: Scene) -> SceneReader:
        """Open the file of a scene: what a subclass changes to read in another way."""
        return SceneReader(scene)

    def __getstate__(self) -> dict[str, Any]:
        """Leave open files behind: every worker opens its own."""
        return self.__dict__ | {"_open": OrderedDict()}

    def _reader(self, number: int) -> SceneReader:
        if self._opened_by != os.getpid():  # a forked worker would share the place in each file with its parent
            self._open, self._opened_by = OrderedDict(), os.getpid()
        if number not in self._open:
            if len(self._open) >= OPEN_SCENES:
                self._open.popitem(last=False)[1].close()
            self._open[number] = self.open_scene(self.scene(number))
        self._open.move_to_end(number)
        return self._open[number]


def _bounds(records: Sequence[dict[Any, Any]], scene_of: Integers, windows: Integers) -> NDArray[np.float64]:
    """(n, 4) float64: the smallest box around the four corners of every window in the CRS of its scene."""
    transforms = np.array([record["transform"] for record in records], np.float64).reshape(-1, 6)
    a, b, c, d, e, f = transforms[scene_of].T
    row, col, height, width = windows.T
    left, top = a * col + b * row + c, d * col + e * row + f
    x = np.stack([left + across for across in (0 * left, a * width, b * height, a * width + b * height)])
    y = np.stack([top + down for down in (0 * top, d * width, e * height, d * width + e * height)])
    return np.stack([x.min(axis=0), y.min(axis=0), x.max(axis=0), y.max(axis=0)], axis=1)


def _check_pixels(record: dict[Any, Any]) -> None:
    channels, scene_id, dtype = channels_of(record), record["scene_id"], str(record["dtype"])
    if max(channels.bands) > int(record["bands"]):
        raise SceneError(
            f"scene {scene_id} has {record['bands']} band(s), so there is no band {max(channels.bands)}: "
            "change data.bands and scan again"
        )
    if "complex" in dtype:
        raise SceneError(f"scene {scene_id} has pixels of {dtype}: turn them into real numbers")
    if dtype != "uint8" and channels.low is None:
        raise SceneError(f"scene {scene_id} has pixels of {dtype} and no values for black and white: scan again")
