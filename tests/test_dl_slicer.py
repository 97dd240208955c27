"""The published data set, in its own folders: what is published as plain JPGs becomes scenes and chips."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray
from PIL import Image
from rasterio.windows import Window

from dlslicer_geo.chips import cut
from dlslicer_geo.data import ChipDataset
from dlslicer_geo.errors import LeakError, SplitError
from dlslicer_geo.scenes import city_order, scan
from dlslicer_geo.splits import split, verify
from dlslicer_geo.types import ChipGrid, Reading, SplitRule

CITIES = ("Almaty (ALA)", "Chicago (CHI)", "Tokyo (TKY)")
DL_SLICER = Reading(source="dl-slicer")


def tree(root: Path, ground: NDArray[np.uint8], *, edge: int, odd: tuple[int, int]) -> dict[str, NDArray[np.uint8]]:
    """3 cities × 3 sites × 2 JPGs; the decoded pixels of each by scene id."""
    decoded = {}
    for number in range(18):
        city, site, image = CITIES[number // 6], f"S{number // 2 % 3}", number % 2
        height, width = odd if number == 4 else (edge, edge)
        path = root / "raw" / city / site / f"{image}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        top, left = 37 * number % (ground.shape[0] - 16), 91 * number % (ground.shape[1] - 16)
        turned = np.rot90(np.roll(ground, (top, left), (0, 1)), number % 4)
        tall, wide = -(-height // turned.shape[0]), -(-width // turned.shape[1])
        Image.fromarray(np.tile(turned, (tall, wide, 1))[:height, :width]).save(path, quality=90)
        name = f"{city}/{site}/{image}".replace("/", "__").replace(" ", "-").replace("(", "-").replace(")", "-")
        with Image.open(path) as opened:
            decoded[name] = np.asarray(opened.convert("RGB"))
    return decoded


def ground_of(data_root: Path) -> NDArray[np.uint8]:
    with rasterio.open(data_root / "banepa/banepa_oam_z19.tif") as source:
        pixels: NDArray[np.uint8] = source.read(window=Window(2000, 1500, 2048, 1536))
    return np.ascontiguousarray(pixels.transpose(1, 2, 0))


def small(data_root: Path, tmp_path: Path) -> Any:
    tree(tmp_path / "set", ground_of(data_root), edge=600, odd=(580, 700))
    return scan(tmp_path / "set", reading=DL_SLICER, prepared=tmp_path / "prepared")


@pytest.mark.slow
def test_a_tree_of_full_size_gives_361_chips_a_scene_whose_pixels_are_those_of_the_jpg(
    data_root: Path, tmp_path: Path
) -> None:
    decoded = tree(tmp_path / "set", ground_of(data_root), edge=4800, odd=(4700, 5000))
    scenes = scan(tmp_path / "set", reading=DL_SLICER, prepared=tmp_path / "prepared")
    assert set(scenes["scene_id"]) == set(decoded)
    chips = cut(scenes, ChipGrid())
    odd = scenes["scene_id"][scenes["width"] == 5000].item()
    counts = chips["scene_id"].value_counts().to_dict()
    assert counts.pop(odd) == 18 * 19
    assert counts == dict.fromkeys(counts, 361)
    assert set(chips["height"]) == {480}
    data = ChipDataset(scenes, chips, ["ALA", "CHI", "TKY"])
    for index, row in enumerate(chips[["scene_id", "row", "col"]].itertuples(index=False)):
        crop = decoded[str(row[0])][row[1] : row[1] + 480, row[2] : row[2] + 480]
        assert (data[index]["image"].permute(1, 2, 0).numpy() == crop).all(), row


def test_cities_sites_and_the_order_of_the_45_come_from_the_folders(
    data_root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "dlslicer_geo"):
        scenes = small(data_root, tmp_path)
    assert sorted(set(scenes["city"])) == ["ALA", "CHI", "TKY"]
    assert set(scenes["site"]) == {"S0", "S1", "S2"}
    assert set(scenes["georef"]) == {"approximate"}
    assert scenes["gsd_m"].to_numpy() == pytest.approx(200 / 480, rel=1e-4)
    assert "42" in caplog.text  # cities that are missing
    assert "1 of 18 images are not 600×600 px: Almaty--ALA-__S2__0 (700×580)" in caplog.text
    order = city_order(None, "dl-slicer")
    assert order is not None
    assert len(order) == 45


def test_sites_stay_together_and_no_distance_is_claimed(data_root: Path, tmp_path: Path) -> None:
    scenes = small(data_root, tmp_path)
    chips = cut(scenes, ChipGrid(stride=60))
    for rule in (SplitRule.by_site(fractions=(0.4, 0.3, 0.3)), SplitRule.by_place(fractions=(0.4, 0.3, 0.3))):
        done, certificate = split(chips, rule, scenes=scenes)
        assert done.groupby(["city", "site"])["split"].nunique().max() == 1
        assert certificate["approximate_chips"] == len(chips)
        assert "nothing is known of the ground" in certificate["approximate_note"]
        assert certificate["min_distance_m"]["overall"] is None
        assert set(certificate["min_distance_m"]["per_city"].values()) == {None}
    with pytest.raises(SplitError, match=r"approximate position.*split\.kind site"):
        split(chips, SplitRule.by_block(2000), scenes=scenes)


def test_chips_of_one_scene_in_two_splits_are_still_a_leak(data_root: Path, tmp_path: Path) -> None:
    scenes = small(data_root, tmp_path)
    chips = cut(scenes, ChipGrid(stride=60))
    torn = chips.assign(split=["train", *["test"] * (len(chips) - 1)])
    with pytest.raises(LeakError, match="pixels"):
        verify(torn, scenes=scenes)


def test_approximate_and_exact_scenes_never_meet(data_root: Path, tmp_path: Path) -> None:
    scenes = small(data_root, tmp_path)
    chips = cut(scenes, ChipGrid(stride=60))
    twin = chips[chips["scene_id"] == chips["scene_id"].iloc[0]]
    exact = twin.assign(scene_id="exact", approximate=False, split="test", chip_id=range(10_000, 10_000 + len(twin)))
    both = twin.assign(split="train")
    import pandas as pd

    table = pd.concat([both, exact], ignore_index=True)
    assert verify(table)["shared_ground_m2"] == 0  # one of the two lies somewhere else
    with pytest.raises(LeakError, match="m²"):
        verify(table.assign(approximate=False))
