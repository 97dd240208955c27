"""What is taken away from a chip is gone, what is said to stay is still there, and baselines repeat themselves."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import towns
from torch import Tensor

from dlslicer_geo.chips import cut
from dlslicer_geo.data import ChipDataModule
from dlslicer_geo.errors import ConfigError
from dlslicer_geo.model import CityClassifier
from dlslicer_geo.probes import CHANGES, frozen_baseline, probe
from dlslicer_geo.scenes import scan
from dlslicer_geo.splits import split
from dlslicer_geo.types import ChipGrid, SplitRule

EDGE = 128


@pytest.fixture
def photo() -> Tensor:
    """Two chips with large shapes, small structure and three unlike channels."""
    y, x = np.mgrid[:EDGE, :EDGE]
    large = np.where(x < EDGE // 2, 60, 180)
    small = 25 * ((x + y) % 2)
    noise = np.random.default_rng(0).integers(0, 20, (2, 3, EDGE, EDGE))
    return torch.from_numpy((large + small + noise + np.array([0, 10, 20])[:, None, None]).astype(np.uint8))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> ChipDataModule:
    folder = tmp_path_factory.mktemp("probes")
    towns.build(folder, towns=("almaty", "new_york"))
    scenes = scan(folder / "scenes")
    chips = cut(scenes, ChipGrid(size=64, stride=32, metres=128.0))
    chips, _ = split(chips, SplitRule.by_site(fractions=(0.5, 0.25, 0.25)), scenes=scenes)
    return ChipDataModule(scenes, chips, batch_size=16)


@pytest.fixture(scope="module")
def model(data: ChipDataModule) -> CityClassifier:
    torch.manual_seed(0)
    made = CityClassifier("test_resnet", cities=data.cities, input_size=64)
    made.eval()
    return made


@pytest.mark.parametrize("name", CHANGES)
def test_every_change_keeps_shape_and_type_and_gives_the_same_twice(name: str, photo: Tensor) -> None:
    before = photo.clone()
    changed = CHANGES[name](photo)
    assert (changed.shape, changed.dtype) == (photo.shape, torch.uint8)
    assert not torch.equal(changed, photo)
    assert torch.equal(photo, before), "the chip itself is left as it is"
    assert torch.equal(changed, CHANGES[name](photo))


@pytest.mark.parametrize("name", sorted(set(CHANGES) - {"grey"}))
def test_a_chip_of_one_colour_has_nothing_else_to_lose(name: str) -> None:
    plain = torch.tensor([200, 90, 30], dtype=torch.uint8).view(1, 3, 1, 1).expand(1, 3, EDGE, EDGE).contiguous()
    assert (CHANGES[name](plain).int() - plain.int()).abs().max() <= (
        10 if "jpeg" in name else 0
    )  # a coarse step of brightness


def test_colour_only_keeps_every_pixel_and_where_none_of_them_was(photo: Tensor) -> None:
    changed = CHANGES["colour only"](photo)
    for one, two in zip(photo, changed, strict=True):
        assert torch.equal(*(torch.unique(image.flatten(1).T, dim=0, return_counts=True)[1] for image in (one, two)))
        assert torch.equal(*(torch.unique(image.flatten(1).T, dim=0) for image in (one, two)))
    halves = changed[:, 0].float()
    assert (halves[..., : EDGE // 2].mean() - halves[..., EDGE // 2 :].mean()).abs() < 5  # they were 120 apart


def test_grey_has_three_equal_channels_of_luminance(photo: Tensor) -> None:
    changed = CHANGES["grey"](photo)
    assert torch.equal(changed[:, 0], changed[:, 1])
    assert torch.equal(changed[:, 0], changed[:, 2])
    luminance = (photo.float() * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(dim=1)
    assert (changed[:, 0].float() - luminance).abs().max() < 1.5


@pytest.mark.parametrize("name", ["blur", "8x coarser", "4x coarser"])
def test_small_structure_is_gone_and_large_shapes_are_left(name: str, photo: Tensor) -> None:
    far = slice(EDGE // 8, 3 * EDGE // 8)  # inside the left half, away from its ends
    changed = CHANGES[name](photo).float()
    assert photo[..., far, far].float().std(dim=(-1, -2)).min() > 12
    assert changed[..., far, far].std(dim=(-1, -2)).max() < 2.5
    assert changed[..., EDGE // 2 + EDGE // 4 :].mean() - changed[..., : EDGE // 4].mean() == pytest.approx(
        120, abs=2
    )


def test_coarser_pixels_and_lower_qualities_lose_more(photo: Tensor) -> None:
    lost = {name: float((change(photo).float() - photo.float()).abs().mean()) for name, change in CHANGES.items()}
    assert lost["jpeg 75"] < lost["jpeg 30"] < lost["jpeg 10"]
    assert 1 < lost["2x coarser"] < lost["8x coarser"]


def test_jpeg_of_a_usual_quality_changes_smooth_chips_little() -> None:
    ramp = torch.linspace(0, 255, EDGE).to(torch.uint8).expand(1, 3, EDGE, EDGE).contiguous()
    changed = CHANGES["jpeg 75"](ramp)
    assert 0 < (changed.int() - ramp.int()).abs().float().mean() < 2


def test_the_model_is_asked_once_per_chip_and_change_and_answers_with_its_temperature(
    model: CityClassifier, data: ChipDataModule
) -> None:
    ids = data.chip_ids("test")[3:20]
    model.temperature.fill_(3.0)
    table = probe(model, data, ids, changes=["grey", "blur"])
    model.forget()
    assert table["probe"].value_counts().to_dict() == {"grey": 17, "blur": 17}
    for _, rows in table.groupby("probe"):
        assert rows["chip_id"].tolist() == ids.tolist()
    images = torch.stack([data.dataset[int(i)]["image"] for i in ids])
    with torch.inference_mode():
        expected, city = (model(CHANGES["grey"](images)) / 3).softmax(dim=1).max(dim=1)
    grey = table[table["probe"] == "grey"]
    assert grey["confidence"].to_numpy() == pytest.approx(expected.numpy(), abs=1e-5)
    assert grey["city"].tolist() == [model.cities[i] for i in city]


def test_nothing_to_do_gives_an_empty_table_and_an_unknown_change_the_known_ones(
    model: CityClassifier, data: ChipDataModule
) -> None:
    assert probe(model, data, data.chip_ids("test"), changes=[]).columns.tolist() == [
        "chip_id", "probe", "city", "confidence",
    ]  # fmt: skip
    with pytest.raises(ConfigError, match=r"probe.changes names sepia: known ones are colour only, grey, blur"):
        probe(model, data, data.chip_ids("test"), changes=["grey", "sepia"])


def test_the_frozen_baseline_learns_from_train_alone_and_gives_the_same_twice(
    model: CityClassifier, data: ChipDataModule
) -> None:
    test = data.chip_ids("test")
    first, again = (frozen_baseline(model, data, test, per_city=12, seed=3) for _ in range(2))
    assert first.equals(again)
    assert first["chip_id"].tolist() == test.tolist()
    truth = data.chips["city"].to_numpy(object)[test]
    assert (first["city"].to_numpy(object) == truth).mean() > 0.9  # two colours need no training
    swapped = {"almaty": "new_york", "new_york": "almaty"}
    city = data.chips["city"].where(data.chips["split"] != "train", data.chips["city"].map(swapped))
    lied = ChipDataModule(data.scenes, data.chips.assign(city=city), batch_size=16)
    assert (frozen_baseline(model, lied, test, per_city=12)["city"].to_numpy(object) == truth).mean() < 0.1
