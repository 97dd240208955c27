"""Chips come out the same, whichever way they are read, and no pixel is decoded twice in one pass."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import torch
from numpy.typing import NDArray
from rasterio.windows import Window
from torch.nn import functional

from dlslicer_geo.chips import cut
from dlslicer_geo.data import ChipDataModule, ChipDataset, SceneReader, resize
from dlslicer_geo.data.strips import _worth_a_strip
from dlslicer_geo.errors import TableError
from dlslicer_geo.scenes import scan
from dlslicer_geo.types import ChipGrid, Reading, Scene


class Counted(SceneReader):
    """Counts the pixels that it decodes."""

    def __init__(self, scene: Scene, counts: dict[str, int]) -> None:
        super().__init__(scene)
        self.counts = counts

    def native(self, row: int, col: int, height: int, width: int) -> NDArray[np.uint8]:
        self.counts[self.scene.scene_id] = self.counts.get(self.scene.scene_id, 0) + height * width
        return super().native(row, col, height, width)


class CountedChips(ChipDataset):
    """Chips whose pixels are counted as they are decoded, by scene."""

    def __init__(self, *tables: Any) -> None:
        super().__init__(*tables)
        self.counts: dict[str, int] = {}

    def open_scene(self, scene: Scene) -> SceneReader:
        return Counted(scene, self.counts)


def one_pass(dataset: ChipDataset, data: ChipDataModule, batches: list[Any]) -> torch.Tensor:
    data.dataset = dataset
    return torch.cat([batch["image"] for batch in data.loader(np.arange(len(dataset)), batches=batches)])


@pytest.fixture
def resampled(raster: Any, tmp_path: Path) -> tuple[Any, Any]:
    """Two scenes of different resolution, whose 120 and 90 px windows become 56 px."""
    raster("in/a_2020_1.tif", gsd=0.4, size=(500, 430))
    raster("in/b_2020_1.tif", gsd=0.53, size=(400, 470), origin=(450_000.0, 3_750_000.0))
    scenes = scan(tmp_path / "in")
    return scenes, cut(scenes, ChipGrid(size=56, stride=28, metres=48.0))


@pytest.mark.parametrize(
    ("window", "size"), [(480, 224), (334, 224), (256, 192), (200, 224), (180, 224), (112, 224), (224, 224)]
)
@pytest.mark.parametrize("file", ["banepa/banepa_oam_z19.tif", "naip_cities/chico_2018_12.tif"])
def test_resampling_is_within_one_grey_level_of_floats_on_real_imagery(
    file: str, window: int, size: int, data_root: Path
) -> None:
    with rasterio.open(data_root / file) as source:
        middle = Window(source.width // 2 - 240, source.height // 2 - 240, 480, 480)
        inside = middle.intersection(Window(0, 0, source.width, source.height))
        pixels = torch.from_numpy(source.read((1, 2, 3), window=inside))
    edge = min(window, *pixels.shape[1:])
    chips = torch.stack([pixels[:, :edge, :edge], pixels[:, -edge:, -edge:]])
    exact = functional.interpolate(chips.float(), (size, size), mode="bilinear", antialias=True).round().clamp(0, 255)
    found = resize(chips, size)
    assert found.dtype == torch.uint8
    assert found.float().std() > 10
    assert ((found - exact).abs() <= 1).float().mean() >= 0.999


@pytest.mark.parametrize(("edge", "size"), [(480, 224), (90, 56), (50, 90), (64, 33)])
def test_resampling_across_and_then_along_the_rows_is_resampling(edge: int, size: int) -> None:
    images = torch.randint(0, 256, (3, 3, edge, edge), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(resize(resize(images, (edge, size)), (size, size)), resize(images, size))


@pytest.mark.parametrize("batch", [1, 7, 1000])
def test_one_pass_gives_the_bytes_of_windows_read_one_by_one(batch: int, resampled: tuple[Any, Any]) -> None:
    scenes, chips = resampled
    assert sorted(set(chips["height"])) == [90, 120]
    data = ChipDataModule(scenes, chips, batch_size=batch)
    order = np.arange(len(chips))
    found = list(data.loader(order))
    assert len(found) == -(-len(chips) // batch)
    images = torch.cat([one["image"] for one in found])
    one_by_one = torch.stack([data.dataset[i]["image"] for i in range(len(chips))])
    assert torch.equal(images, one_by_one)
    assert torch.cat([one["chip_id"] for one in found]).tolist() == order.tolist()
    assert torch.equal(torch.cat([one["bounds"] for one in found]), torch.from_numpy(data.dataset.bounds))


def test_one_pass_in_any_order_gives_the_same_bytes(resampled: tuple[Any, Any]) -> None:
    scenes, chips = resampled
    data = ChipDataModule(scenes, chips)
    mixed = np.random.default_rng(0).permutation(len(chips))
    batches = [mixed[:50], mixed[50:53], np.sort(mixed[53:])]
    found = list(data.loader(mixed, batches=batches))
    for one, ids in zip(found, batches, strict=True):
        assert one["chip_id"].tolist() == ids.tolist()
        assert torch.equal(one["image"], data.dataset.batch(ids)["image"])


def test_one_pass_decodes_every_pixel_once_and_windows_decode_it_four_times(resampled: tuple[Any, Any]) -> None:
    scenes, chips = resampled
    tables = scenes, chips, ("a", "b")
    data = ChipDataModule(scenes, chips)
    once, windows = CountedChips(*tables), CountedChips(*tables)
    order = np.arange(len(chips))
    images = one_pass(once, data, list(np.split(order, range(50, len(order), 50))))
    assert torch.equal(images, windows.batch(order)["image"])
    for scene in scenes.to_dict("records"):
        assert once.counts[scene["scene_id"]] <= scene["width"] * scene["height"]
        assert windows.counts[scene["scene_id"]] > 2.5 * once.counts[scene["scene_id"]]


def test_a_few_scattered_chips_of_a_scene_are_not_read_as_a_whole_scene(resampled: tuple[Any, Any]) -> None:
    scenes, chips = resampled
    few = np.array([0, len(chips) // 4, len(chips) // 3])
    dataset = CountedChips(scenes, chips, ("a", "b"))
    one_pass(dataset, ChipDataModule(scenes, chips), [few])
    assert sum(dataset.counts.values()) == (chips["height"] * chips["width"])[few].sum()


def test_one_pass_through_workers_gives_the_same_batches_in_the_same_order(resampled: tuple[Any, Any]) -> None:
    scenes, chips = resampled
    order = np.arange(len(chips))
    alone = ChipDataModule(scenes, chips, batch_size=16).loader(order)
    for one, other in zip(alone, ChipDataModule(scenes, chips, batch_size=16, workers=2).loader(order), strict=True):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_batches_are_channels_last_in_memory(resampled: tuple[Any, Any]) -> None:
    scenes, chips = resampled
    data = ChipDataModule(scenes, chips.assign(split="train"), batch_size=5)
    for loader in (data.loader(np.arange(len(chips))), data.train_dataloader()):
        image = next(iter(loader))["image"]
        assert image.shape == (5, 3, 56, 56)
        assert image.is_contiguous(memory_format=torch.channels_last)


def test_pixels_of_other_types_are_the_same_in_one_pass(raster: Any, tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(100, 4000, (4, 200, 180), dtype=np.uint16)
    raster("in/x_2020_1.tif", pixels=values, photometric="minisblack", alpha="no")
    scenes = scan(tmp_path / "in", reading=Reading(bands=(4, 1, 2)))
    chips = cut(scenes, ChipGrid(size=32, stride=16, metres=30.0))
    data = ChipDataModule(scenes, chips)
    order = np.arange(len(chips))
    found = torch.cat([one["image"] for one in data.loader(order)])
    assert torch.equal(found, torch.stack([data.dataset[int(i)]["image"] for i in order]))
    assert found.float().std() > 10


def test_bounds_of_a_turned_scene_are_those_of_its_grid(resampled: tuple[Any, Any]) -> None:
    scenes, chips = resampled
    turned = scenes.assign(transform=[(0.3, 0.2, 4e5, 0.1, -0.4, 3e6)] * len(scenes))
    dataset = ChipDataset(turned, chips, ())
    for i in (0, 7, len(chips) - 1):
        scene = Scene.from_record(turned.to_dict("records")[dataset.scene_of[i]])
        row, col, height, width = dataset.windows[i].tolist()
        box = scene.grid[row : row + height, col : col + width].boundingbox
        assert dataset.bounds[i] == pytest.approx([box.left, box.bottom, box.right, box.top], abs=1e-6)


def test_a_million_chips_are_columns(resampled: tuple[Any, Any]) -> None:
    scenes, chips = resampled
    many = gpd.GeoDataFrame(chips.iloc[np.arange(1_000_000) % len(chips)].assign(chip_id=np.arange(1_000_000)))
    dataset = ChipDataset(scenes, many, ("a", "b"))
    last = dataset[999_999]
    assert last["chip_id"] == 999_999
    assert torch.equal(last["image"], ChipDataset(scenes, chips, ())[999_999 % len(chips)]["image"])
    held = sum(value.nbytes for value in vars(dataset).values() if isinstance(value, np.ndarray))
    assert held == 1_000_000 * 8 * (1 + 4 + 1 + 1 + 1 + 4)


def test_chips_of_two_sizes_are_not_a_batch(resampled: tuple[Any, Any]) -> None:
    scenes, chips = resampled
    dataset = ChipDataset(scenes, chips.assign(size=np.where(chips["chip_id"] < 3, 56, 64)), ())
    assert dataset[0]["image"].shape[-1] == 56
    with pytest.raises(TableError, match="chips of 56 and 64 px are in one batch: cut all scenes with one grid"):
        dataset.batch(np.arange(5))


@pytest.mark.parametrize("bands", [(1, 2, 3), (3, 1, 4)])
@pytest.mark.parametrize(
    "options",
    [
        {"interleave": "pixel"},
        {"interleave": "band"},
        {"interleave": "pixel", "compress": "deflate"},
        {"interleave": "pixel", "sparse_ok": True},
    ],
)
def test_tiles_read_as_bytes_are_the_pixels_that_gdal_reads(
    options: dict[str, Any], bands: tuple[int, int, int], raster: Any, tmp_path: Path
) -> None:
    values = np.random.default_rng(0).integers(1, 255, (4, 150, 170), dtype=np.uint8)
    values[:, :64, 64:128] = 0  # a tile that is not in a sparse file
    layout = {"tiled": True, "blockxsize": 64, "blockysize": 48, "photometric": "minisblack", "alpha": "no"}
    raster("in/x_2020_1.tif", pixels=values, **layout, **options)
    scenes = scan(tmp_path / "in", reading=Reading(bands=bands, holes=False))
    reader = SceneReader(Scene.from_record(scenes.to_dict("records")[0]))
    for row, col, height, width in ((0, 0, 150, 170), (47, 63, 2, 2), (100, 130, 50, 40), (10, 70, 20, 30)):
        expected = values[[band - 1 for band in bands], row : row + height, col : col + width]
        assert (reader.native(row, col, height, width).transpose(2, 0, 1) == expected).all()
    reader.close()


def test_chips_at_both_edges_of_a_scene_are_not_read_as_all_that_lies_between() -> None:
    rows = np.arange(10) * 8
    windows = np.array([(row, col, 16, 16) for row in rows for col in (0, 984)])
    near = np.array([(row, col, 16, 16) for row in rows for col in (0, 8)])
    assert not _worth_a_strip(windows, 8)
    assert _worth_a_strip(near, 8)
