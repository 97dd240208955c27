"""Features that overlapping chips share are pooled by exact shares, and how far that is from chip by chip is said."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dlslicer_geo.chips import cut
from dlslicer_geo.data import ChipDataModule
from dlslicer_geo.errors import ModelError, TableError
from dlslicer_geo.files import read_json
from dlslicer_geo.model import CityClassifier
from dlslicer_geo.model.dense import _shares
from dlslicer_geo.predict import predict, read_predictions
from dlslicer_geo.predict.tiles import HALO, Tiles
from dlslicer_geo.scenes import scan
from dlslicer_geo.types import ChipGrid


def town(seed: int, edge: int) -> Any:
    """Smooth random colours, as photographs have them."""
    coarse = torch.rand(1, 3, edge // 8, edge // 8, generator=torch.Generator().manual_seed(seed))
    fine = torch.nn.functional.interpolate(coarse, (edge, edge), mode="bicubic")[0]
    return (20 + 200 * fine).clamp(1, 254).to(torch.uint8).numpy()


@pytest.fixture
def data(raster: Callable[..., Path], tmp_path: Path) -> ChipDataModule:
    for number, city in enumerate(("almaty", "new_york")):
        origin = (650_000.0 + 9_000 * number, 4_700_000.0)
        raster(f"s/{city}_2020_0.tif", crs="EPSG:32643", gsd=1.0, origin=origin, pixels=town(number, 440))
    scenes = scan(tmp_path / "s")
    chips = cut(scenes, ChipGrid(size=64, stride=32, metres=96.0))  # 96 native pixels become 64
    return ChipDataModule(scenes, chips.assign(split="test"))


def classifier(data: ChipDataModule, name: str = "test_resnet", **options: Any) -> CityClassifier:
    torch.manual_seed(0)
    model = CityClassifier(name, cities=data.cities, input_size=options.pop("input_size", 64), **options)
    model.eval()
    return model


def test_shares_of_cells_are_those_of_an_area() -> None:
    starts = torch.tensor([-0.5, 0.0, 1.3, 3.5, 6.0], dtype=torch.float64)
    found = _shares(starts, 2.0, 7)
    fine = torch.arange(7000) / 1000  # each cell in a thousand pieces
    for row, start in zip(found, starts, strict=True):
        inside = ((fine >= start) & (fine < start + 2)).view(7, 1000).sum(dim=1) / 2000
        assert row.numpy() == pytest.approx(inside.numpy(), abs=1e-3)
    assert found.sum(dim=1).tolist() == pytest.approx([0.75, 1, 1, 1, 0.5])


def test_tiles_are_the_scene_at_the_resolution_of_its_chips(data: ChipDataModule) -> None:
    tiles = Tiles(classifier(data), data, data.chip_ids("all"))
    sample = tiles[0]
    image, (top, left) = sample["image"][0], (int(sample["top"][7]), int(sample["left"][7]))
    assert image.dtype == torch.uint8
    inner = slice(2, -2)  # where a chip ends its resampling ends too
    within = image[:, HALO + top : HALO + top + 64, HALO + left : HALO + left + 64]
    chip = data.dataset[int(sample["at"][7])]["image"]
    apart = (within.int() - chip.int()).abs()[:, inner, inner]
    assert apart.max() <= 1
    mean = (classifier(data).mean.flatten() * 255).round()
    assert image[:, 0, 0].tolist() == mean.tolist()  # beyond the scene


def test_dense_answers_are_near_those_of_single_chips_and_the_manifest_says_how_near(
    data: ChipDataModule, tmp_path: Path
) -> None:
    model = classifier(data)
    alone = predict(model, data, out=tmp_path / "alone", embedding=True)
    dense = predict(model, data, out=tmp_path / "dense", embedding=True, dense=True)
    assert dense.chip_id.tolist() == alone.chip_id.tolist()
    assert list(dense.truth) == list(alone.truth)
    one, other = (read_predictions(tmp_path / name, embedding=True).embedding for name in ("alone", "dense"))
    assert one is not None
    assert other is not None
    centred = [values - values.mean(axis=0) for values in (one, other)]
    assert np.corrcoef(*(values.ravel() for values in centred))[0, 1] > 0.8
    apart = np.abs(dense.probabilities.astype(float) - alone.probabilities)
    said = read_json(tmp_path / "dense" / "manifest.json")["dense"]
    assert said["chips"] == min(256, len(alone))
    assert 0 < said["largest_difference"] <= apart.max() + 1e-6
    assert set(said) == {"chips", "same_city", "largest_difference", "mean_difference"}


def test_the_way_a_scene_is_tiled_changes_little(raster: Callable[..., Path], tmp_path: Path) -> None:
    raster("s/almaty_2020_0.tif", crs="EPSG:32643", gsd=1.0, origin=(650_000.0, 4.7e6), pixels=town(0, 1408))
    scenes = scan(tmp_path / "s")
    chips = cut(scenes, ChipGrid(size=64, stride=64, metres=64.0)).assign(split="test")
    data = ChipDataModule(scenes, chips)
    model = CityClassifier("test_resnet", cities=("almaty", "x"), input_size=64).eval()
    tiles = Tiles(model, data, data.chip_ids("all"))
    assert len(tiles) == 4
    assert tiles.lengths(np.array([len(chips)])) == [4]
    predict(model, data, out=tmp_path / "p", embedding=True, dense=True)
    found = read_predictions(tmp_path / "p", embedding=True).embedding
    assert found is not None
    with torch.inference_mode():
        whole = torch.from_numpy(town(0, 1408))[None]
        last, _ = model.maps(model.normalise(whole))
    cells = 64 * last.shape[-1] // 1408
    for row, col, values in zip(chips["row"], chips["col"], found, strict=True):
        top, left = (int(at) * cells // 64 for at in (row, col))
        pooled = last[0, :, top : top + cells, left : left + cells].mean(dim=(1, 2)).numpy()
        if 64 <= row < 1280 and 64 <= col < 1280:  # elsewhere the whole image ends, and tiles see its mean colour
            assert values == pytest.approx(pooled, abs=0.02 * float(last.abs().max()))


def test_a_killed_dense_run_ends_with_the_same_bytes(data: ChipDataModule, tmp_path: Path) -> None:
    model = classifier(data)
    for name in ("whole", "killed"):
        predict(model, data, out=tmp_path / name, chips_per_part=20, dense=True)
    (tmp_path / "killed" / "part-1.parquet").unlink()
    predict(model, data, out=tmp_path / "killed", chips_per_part=20, dense=True)
    files = {path.name: path.read_bytes() for path in (tmp_path / "whole").iterdir()}
    assert len(files) == 3
    assert files == {path.name: path.read_bytes() for path in (tmp_path / "killed").iterdir()}


@pytest.mark.parametrize("name", ["test_vit", "mobilenetv3_small_050", "test_convnext"])
def test_a_network_that_does_not_end_in_a_mean_is_refused_by_name(
    name: str, data: ChipDataModule, tmp_path: Path
) -> None:
    size = 160 if name == "test_vit" else 64
    with pytest.raises(ModelError, match=rf"{name} does not end in the mean"):
        predict(classifier(data, name, input_size=size), data, out=tmp_path, dense=True)


def test_an_input_of_no_whole_cells_is_refused(data: ChipDataModule, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"model.input_size is 72.*multiple of 32"):
        predict(classifier(data, input_size=72), data, out=tmp_path, dense=True)


def test_chips_of_several_sizes_in_one_scene_are_refused(data: ChipDataModule, tmp_path: Path) -> None:
    chips = data.chips.copy()
    chips.loc[3, ["height", "width"]] = 64
    with pytest.raises(TableError, match=r"measure \[64, 96\] pixels"):
        predict(classifier(data), ChipDataModule(data.scenes, chips), out=tmp_path, dense=True)
