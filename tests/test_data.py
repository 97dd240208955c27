"""Pixels keep their place from the file to the batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
from PIL import Image
from rasterio.windows import Window
from torch.utils.data import DataLoader

from dlslicer_geo.chips import cut
from dlslicer_geo.data import BalancedSampler, ChipDataModule, ChipDataset, ChipSampler, SceneDataset, flip, resize
from dlslicer_geo.errors import SceneError, SplitError
from dlslicer_geo.scenes import scan
from dlslicer_geo.types import ChipGrid, Reading, Scene


@pytest.fixture
def tables(two_zones: Path) -> tuple[Any, Any]:
    scenes = scan(two_zones)
    return scenes, cut(scenes, ChipGrid(size=64, stride=24, metres=128.0))


def test_200_random_chips_of_two_utm_zones_equal_direct_windowed_reads(tables: tuple[Any, Any]) -> None:
    scenes, chips = tables
    assert scenes["crs"].nunique() == 2
    dataset = ChipDataset(scenes, chips, ("almaty", "new_york"))
    path = dict(zip(scenes["scene_id"], scenes["path"], strict=True))
    differing = 0
    for i in np.random.default_rng(0).choice(len(chips), 200, replace=False):
        row = chips.iloc[int(i)]
        with rasterio.open(path[row.scene_id]) as source:
            expected = source.read((1, 2, 3), window=Window(row.col, row.row, row.width, row.height))
        differing += int((dataset[int(i)]["image"].numpy() != expected).sum())
    assert differing == 0


def test_chips_of_real_scenes_in_both_naip_zones_equal_direct_reads(data_root: Path) -> None:
    files = [data_root / "naip_cities" / name for name in ("chico_2018_12.tif", "riverside_2020_3.tif")]
    scenes = scan(files)
    chips = cut(scenes, ChipGrid(size=128, stride=64, metres=76.8))
    dataset = ChipDataset(scenes, chips, ("chico", "riverside"))
    assert sorted(scenes["crs"]) == ["EPSG:26910", "EPSG:26911"]
    for i, row in enumerate(chips.to_dict("records")):
        with rasterio.open(next(f for f in files if f.stem == row["scene_id"])) as source:
            expected = source.read(window=Window(row["col"], row["row"], row["width"], row["height"]))
        assert (dataset[i]["image"].numpy() == expected).all()


def test_plain_torchgeo_loading_gives_the_same_pixels_as_the_chip_dataset(tables: tuple[Any, Any]) -> None:
    scenes, chips = tables
    scene = Scene.from_record(scenes.to_dict("records")[0])
    own = chips[chips["scene_id"] == scene.scene_id]
    dataset = SceneDataset(scene)
    slices = list(ChipSampler(scene, chips))
    assert len(slices) == len(own) > 4
    ours = ChipDataset(scenes, own, ("almaty", "new_york"))
    for i, query in enumerate(slices):
        assert torch.equal(dataset[query]["image"].to(torch.uint8), ours[i]["image"])


def test_shuffled_sampler_draws_the_same_order_for_the_same_seed(tables: tuple[Any, Any]) -> None:
    scenes, chips = tables
    scene = Scene.from_record(scenes.to_dict("records")[0])
    first, second = (list(ChipSampler(scene, chips, shuffle=True, seed=5)) for _ in range(2))
    assert first == second != list(ChipSampler(scene, chips))


def test_chip_id_and_bounds_travel_with_every_batch_also_through_workers(tables: tuple[Any, Any]) -> None:
    scenes, chips = tables
    data = ChipDataModule(scenes, chips, batch_size=7, workers=2)
    ids = np.array([3, 50, 1, 20], np.int64)
    batch = next(iter(data.loader(ids)))
    assert batch["chip_id"].tolist() == ids.tolist()
    assert batch["image"].dtype == torch.uint8
    row = chips.iloc[50]
    scene = Scene.from_record(scenes[scenes["scene_id"] == row.scene_id].to_dict("records")[0])
    box = scene.grid[row.row : row.row + row.height, row.col : row.col + row.width].boundingbox
    assert batch["bounds"][1].tolist() == [box.left, box.bottom, box.right, box.top]


def test_labels_follow_the_sorted_city_codes_and_unknown_is_minus_one(tables: tuple[Any, Any]) -> None:
    scenes, chips = tables
    data = ChipDataModule(scenes, chips)
    assert data.cities == ("almaty", "new_york")
    assert set(data.labels(np.arange(len(chips)))[(chips["city"] == "new_york").to_numpy()]) == {1}
    assert set(ChipDataModule(scenes, chips, cities=("tokyo",)).labels(np.arange(len(chips)))) == {-1}


def test_balanced_draw_gives_every_city_its_share_and_another_order_each_epoch() -> None:
    labels = np.repeat([0, 1, 2], [900, 90, 10])
    sampler = BalancedSampler(labels, seed=3)
    first = list(sampler)
    assert np.bincount(labels[first]) / len(labels) == pytest.approx([1 / 3] * 3, abs=0.05)
    assert first == list(sampler)
    sampler.set_epoch(1)
    assert first != list(sampler)


def test_an_empty_split_is_refused_in_one_sentence(tables: tuple[Any, Any]) -> None:
    scenes, chips = tables
    with pytest.raises(SplitError, match="no chip is in the split 'train'"):
        ChipDataModule(scenes, chips).train_dataloader()


def test_chips_of_wide_pixels_are_scaled_as_the_scene_table_says_and_bands_are_mapped(
    raster: Any, tmp_path: Path
) -> None:
    values = np.random.default_rng(0).integers(100, 4000, (4, 64, 64), dtype=np.uint16)
    raster("in/x_2020_1.tif", pixels=values, photometric="minisblack", alpha="no")
    scenes = scan(tmp_path / "in", reading=Reading(bands=(4, 1, 2)))
    chips = cut(scenes, ChipGrid(size=32, stride=32, metres=None))
    dataset = ChipDataset(scenes, chips, ("x",))
    low, high = (np.array(scenes[name].iloc[0])[:, None, None] for name in ("low", "high"))
    assert (low > 100).all()
    expected = np.clip((values[[3, 0, 1], 32:, :32] - low) / (high - low) * 255, 0, 255)
    assert np.abs(dataset[2]["image"].numpy() - expected).max() < 0.51


def test_a_scene_without_its_channels_or_limits_is_refused_with_advice(raster: Any, tmp_path: Path) -> None:
    raster("in/x_2020_1.tif", pixels=np.full((3, 64, 64), 9, np.uint16))
    scenes = scan(tmp_path / "in")
    chips = cut(scenes, ChipGrid(size=32, stride=32, metres=None))
    with pytest.raises(
        SceneError, match=r"x_2020_1 has pixels of uint16 and no values for black and white: scan again"
    ):
        ChipDataset(scenes.assign(low=None, high=None), chips, ("x",))
    scenes["channels"] = [[4, 1, 2]]
    with pytest.raises(SceneError, match=r"x_2020_1 has 3 band\(s\), so there is no band 4"):
        ChipDataset(scenes, chips, ("x",))


def test_chips_of_a_jpg_equal_pillow_crops_of_the_raw_image(raster: Any, tmp_path: Path) -> None:
    root = tmp_path / "in"
    root.mkdir()
    picture = Image.fromarray(np.random.default_rng(0).integers(5, 250, (220, 300, 3), dtype=np.uint8))
    picture.resize((900, 660)).save(root / "x_2020_1.jpg", quality=88)
    (root / "x_2020_1.jgw").write_text("0.4\n0\n0\n-0.4\n400000\n3000000\n")
    grid = ChipGrid(size=240, stride=120, metres=None)
    scenes = scan(root, reading=Reading(crs="EPSG:32645"), prepared=tmp_path / "prepared", grid=grid)
    chips = cut(scenes, grid)
    dataset = ChipDataset(scenes, chips, ("x",))
    assert len(chips) == 6 * 4
    with Image.open(root / "x_2020_1.jpg") as decoded:
        for i, chip in enumerate(chips.to_dict("records")):
            left, top = chip["col"], chip["row"]
            crop = decoded.crop((left, top, left + chip["width"], top + chip["height"]))
            assert (dataset[i]["image"].numpy().transpose(1, 2, 0) == np.asarray(crop)).all()


def test_resize_is_antialiased_and_leaves_a_constant_alone() -> None:
    stripes = torch.zeros(1, 3, 64, 64, dtype=torch.uint8)
    stripes[..., ::2] = 255
    assert resize(stripes, 16).float().std() < 5
    assert (resize(torch.full((1, 3, 50, 50), 77, dtype=torch.uint8), 31) == 77).all()


def test_flips_mirror_whole_images_and_follow_the_seed() -> None:
    images = torch.arange(64 * 12, dtype=torch.uint8).reshape(64, 1, 3, 4)
    torch.manual_seed(0)
    first = flip(images)
    torch.manual_seed(0)
    assert torch.equal(first, flip(images))
    kinds = {(), (-1,), (-2,), (-2, -1)}
    seen = {k for a, b in zip(images, first, strict=True) for k in kinds if torch.equal(b, a.flip(k) if k else a)}
    assert seen == kinds


def test_a_plain_pytorch_loader_reads_the_dataset(tables: tuple[Any, Any]) -> None:
    scenes, chips = tables
    loader = DataLoader(ChipDataset(scenes, chips, ("almaty", "new_york")), batch_size=5)
    assert next(iter(loader))["image"].shape == (5, 3, 64, 64)


def test_a_scene_that_is_gone_or_was_cut_off_is_named_in_one_sentence(tables: tuple[Any, Any]) -> None:
    scenes, chips = tables
    dataset = ChipDataset(scenes, chips, ("almaty", "new_york"))
    gone, cut_off = (Path(scenes["path"].iloc[i]) for i in (0, 1))
    gone.unlink()
    cut_off.write_bytes(cut_off.read_bytes()[: cut_off.stat().st_size // 2])
    with pytest.raises(SceneError, match=f"{scenes['scene_id'].iloc[0]} cannot be read"):
        dataset[0]
    last = np.flatnonzero(chips["scene_id"] == scenes["scene_id"].iloc[1])[-1]
    with pytest.raises(SceneError, match=f"{scenes['scene_id'].iloc[1]} cannot be read"):
        dataset[int(last)]


def test_workers_do_not_share_files_with_a_process_that_read_before_them(raster: Any, tmp_path: Path) -> None:
    shape = {"tiled": True, "blockxsize": 128, "blockysize": 128, "compress": "deflate"}
    raster("in/a_2020_1.tif", gsd=1.0, size=(1400, 1400), **shape)
    scenes = scan(tmp_path / "in")
    chips = cut(scenes, ChipGrid(size=64, stride=32, metres=64.0))
    order = np.random.default_rng(0).permutation(len(chips))
    alone = torch.cat([batch["image"] for batch in ChipDataModule(scenes, chips, batch_size=16).loader(order)])
    data = ChipDataModule(scenes, chips, batch_size=16, workers=2)
    assert data.dataset[0]["image"].shape == (3, 64, 64)  # opened here, so that forked workers inherit it
    assert torch.equal(torch.cat([batch["image"] for batch in data.loader(order)]), alone)
