"""How fast chips are read, in random order and one after the other, against the published way and TorchGeo's own."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import imagery
import numpy as np
import rasterio
import torch
from PIL import Image
from rounds import Growth, Options, Ratio, Theme, Way, growth, in_turn, rates
from torch.nn import functional
from torch.utils.data import DataLoader
from torchgeo.datasets import RasterDataset, stack_samples
from torchgeo.samplers import GridGeoSampler, RandomGeoSampler
from torchvision.datasets import ImageFolder
from torchvision.transforms import Compose, Resize, ToTensor

import dlslicer_geo as dl
from dlslicer_geo.data import write_store

if TYPE_CHECKING:
    from geopandas import GeoDataFrame

BATCH = 128
STORE, COG = "memory-mapped store", "prepared raster (COG)"
PUBLISHED, STOCK = "published: pre-cut JPG files", "TorchGeo's RasterDataset"
PASS, COPY, DECODE = "one pass over the prepared raster", "bare copy of such batches in memory", "bare decode"


def random_order(folder: Path, options: Options) -> Theme:
    """Batches of 128 random chips of 480 px at 224 px: one process, one thread, processor time."""
    torch.set_num_threads(1)
    scenes, chips = _world(folder, options)
    store = _store(scenes, chips, folder / "store")
    share = 0.02 if options.quick else 1
    ways = {
        STORE: drawn(_module(scenes, chips, store=store), int(8192 * share)),
        COG: drawn(_module(scenes, chips), int(640 * share)),
        PUBLISHED: drawn_files(_precut(folder, scenes, chips), int(256 * share)),
        STOCK: stock(list(scenes["path"]), int(128 * share)),
        COPY: copied(int(20_000 * share)),
    }
    speed = rates(in_turn(ways, options.rounds), "chips/s")
    return Theme(
        title="Training reads: random order, per core",
        figures=list(speed.values()),
        ratios=[
            Ratio(of=speed[STORE], to=speed[PUBLISHED], least=30),
            Ratio(of=speed[STORE], to=speed[STOCK], least=50),
            Ratio(of=speed[STORE], to=speed[COPY]),
            Ratio(of=speed[COG], to=speed[PUBLISHED], least=2),
            Ratio(of=speed[COG], to=speed[STOCK]),
        ],
        growths=[
            _epochs(f"an epoch from the {STORE}", scenes, chips, options, store),
            _epochs(f"an epoch from the {COG}", scenes, chips, options, None),
        ],
        notes=[
            f"{len(scenes)} scenes of {scenes['width'][0]}² px with {len(chips):,} half-overlapping chips of "
            f"{imagery.WINDOW} px, read at {imagery.SIZE} px in batches of {BATCH}; processor time of one process "
            "with one thread, all files in the page cache, GDAL's block cache held at 16 MB, so that blocks are read "
            "and not remembered. TorchGeo reads the same prepared rasters, which suits it better than the raw JPG.",
            _disk(folder, scenes, store),
        ],
    )


def one_pass(folder: Path, options: Options) -> Theme:
    """All half-overlapping chips of a scene in order: one process, one thread, processor time."""
    torch.set_num_threads(1)
    scenes, chips = _world(folder, options)
    first = chips[chips["scene_id"] == scenes["scene_id"][0]]
    path, raw = scenes["path"][0], scenes["source"][0]
    precut = _precut(folder, scenes, chips)
    ways: dict[str, Way] = {
        PASS: passed(_module(scenes, chips), first["chip_id"].to_numpy(np.int64)),
        PUBLISHED: lambda: _count(_files(precut, shuffle=False)),
        STOCK: lambda: _count(_stock([path], None)),
        f"{DECODE} of the prepared raster": lambda: len(_raster(path)) and len(first),
        f"{DECODE} of the raw JPG": lambda: len(np.asarray(Image.open(raw))) and len(first),
    }
    speed = rates(in_turn(ways, options.rounds), "chips/s")
    return Theme(
        title=f"One pass over a scene of {scenes['width'][0]}² px: {len(first)} half-overlapping chips, per core",
        figures=list(speed.values()),
        ratios=[
            Ratio(of=speed[PASS], to=speed[PUBLISHED], least=10),
            *(Ratio(of=speed[PASS], to=speed[name]) for name in ways if name not in (PASS, PUBLISHED)),
        ],
        growths=[_passes(scenes, chips, options)],
        notes=["As above. Published: the same chips, cut and written as JPG files beforehand, read in order."],
    )


def drawn(data: dl.ChipDataModule, number: int) -> Way:
    """Training batches of the data module, epoch after epoch."""
    batches = _endless(data.train_dataloader)
    return lambda: _take(batches, number)


def drawn_files(folder: Path, number: int) -> Way:
    """The same by the published way."""
    batches = _endless(lambda: _files(folder, shuffle=True))
    return lambda: _take(batches, number)


def stock(paths: list[str], number: int) -> Way:
    """The same by TorchGeo's random sampler."""
    batches = _endless(lambda: _stock(paths, 100 * BATCH))
    return lambda: _take(batches, number)


def passed(data: dl.ChipDataModule, ids: np.ndarray[Any, np.dtype[np.int64]]) -> Way:
    """These chips in order."""
    return lambda: _count(data.loader(ids))


def copied(number: int) -> Way:
    """What no reader can beat: the bytes of so many chips from one place in memory to another, batch by batch."""
    source = torch.zeros(8 * BATCH, 3, imagery.SIZE, imagery.SIZE, dtype=torch.uint8)

    def act() -> int:
        for i in range(0, number, BATCH):
            source[i % len(source) :][:BATCH].clone()
        return -(-number // BATCH) * BATCH

    return act


def _files(folder: Path, *, shuffle: bool) -> Iterable[Any]:
    """The published way, as it was published."""
    dataset = ImageFolder(str(folder), Compose([Resize(imagery.SIZE), ToTensor()]))
    return DataLoader(dataset, batch_size=BATCH, shuffle=shuffle)


def _stock(paths: list[str], length: int | None) -> Iterator[Any]:
    """TorchGeo's way: random chips, or the grid of all of them for None."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchGeo 0.10 calls its samplers deprecated
        dataset = RasterDataset(paths=paths)
        sampler = (
            GridGeoSampler(dataset, size=imagery.WINDOW, stride=imagery.WINDOW // 2)
            if length is None
            else RandomGeoSampler(dataset, size=imagery.WINDOW, length=length)
        )
        for batch in DataLoader(dataset, batch_size=BATCH, sampler=sampler, collate_fn=stack_samples):
            size = (imagery.SIZE, imagery.SIZE)
            yield {"image": functional.interpolate(batch["image"], size, mode="bilinear", antialias=True)}


def _endless(epoch: Any) -> Iterator[Any]:
    while True:
        yield from epoch()


def _take(batches: Iterator[Any], number: int) -> int:
    """Read at least so many chips, and say how many they were."""
    done = 0
    while done < number:
        done += _chips(next(batches))
    return done


def _count(batches: Iterable[Any]) -> int:
    return sum(map(_chips, batches))


def _chips(batch: Any) -> int:
    return len(batch["image"] if isinstance(batch, dict) else batch[0])


def _raster(path: str) -> Any:
    with rasterio.open(path) as source:
        return source.read()


def _world(folder: Path, options: Options) -> tuple[GeoDataFrame, GeoDataFrame]:
    """Scenes and chips of the largest size."""
    return imagery.world(folder, 4, 960) if options.quick else imagery.world(folder, 16)


def _some(scenes: GeoDataFrame, chips: GeoDataFrame, number: int) -> tuple[GeoDataFrame, GeoDataFrame]:
    """The first scenes and their chips."""
    few = scenes.iloc[:number]
    return few, chips[chips["scene_id"].isin(few["scene_id"])].reset_index(drop=True)


def _sizes(scenes: GeoDataFrame) -> list[int]:
    return [len(scenes) // 16 or 1, max(len(scenes) // 4, 2), len(scenes)]


def _module(scenes: GeoDataFrame, chips: GeoDataFrame, store: Path | None = None) -> dl.ChipDataModule:
    return dl.ChipDataModule(scenes, chips, batch_size=BATCH, store=store)


def _precut(folder: Path, scenes: GeoDataFrame, chips: GeoDataFrame) -> Path:
    """The chips of the first scene as files."""
    made = folder / "precut"
    if not made.exists():
        own = chips[chips["scene_id"] == scenes["scene_id"].iloc[0]]
        windows = own[["row", "col", "height", "width"]].to_numpy().tolist()
        imagery.published(Path(scenes["source"].iloc[0]), windows, made)
    return made


def _store(scenes: GeoDataFrame, chips: GeoDataFrame, folder: Path) -> Path:
    """The chips of all scenes at model resolution."""
    write_store(scenes, chips, folder)
    return folder


def _disk(folder: Path, scenes: GeoDataFrame, store: Path) -> str:
    """What lies on disk, per scene."""
    raw = imagery.megabytes(folder / "raw", "*.jpg") / len(scenes)
    cog, kept = (imagery.megabytes(place) / len(scenes) for place in (folder / "prepared", store))
    return (
        f"On disk, per scene: raw JPG {raw:.1f} MB, store {kept:.1f} MB ({kept / raw:.2f} × JPG), prepared raster "
        f"{cog:.1f} MB ({cog / raw:.1f} × JPG, {cog / kept:.1f} × store)."
    )


def _epochs(what: str, scenes: GeoDataFrame, chips: GeoDataFrame, options: Options, store: Path | None) -> Growth:
    """An epoch at growing numbers of scenes."""
    works: dict[int, Way] = {}
    for number in _sizes(scenes):
        some = _some(scenes, chips, number)
        works[len(some[1])] = drawn(_module(*some, store=store), len(some[1]))
    return growth(what, works, 1 if store is None else options.rounds)


def _passes(scenes: GeoDataFrame, chips: GeoDataFrame, options: Options) -> Growth:
    """One pass over growing numbers of scenes."""
    works: dict[int, Way] = {}
    for number in _sizes(scenes):
        some = _some(scenes, chips, number)
        works[len(some[1])] = passed(_module(*some), some[1]["chip_id"].to_numpy(np.int64))
    return growth("one pass over all chips", works, options.rounds)
