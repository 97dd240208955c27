"""Relevance lands where the evidence is, and every chip keeps its city, window and grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import geopandas as gpd
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from relevance_nets import LAYERS, toy
from shapely.geometry import box
from torch import Tensor, nn

from dlslicer_geo.errors import RelevanceError
from dlslicer_geo.relevance import METHODS, Explainer, explain, relevance_maps
from dlslicer_geo.relevance.starts import STARTS
from dlslicer_geo.types import Saliency


def grating(kind: int, edge: int, draw: np.random.Generator) -> NDArray[np.float64]:
    """A striped patch whose direction is its class."""
    angle = kind * np.pi / 4
    rows, cols = np.mgrid[:edge, :edge]
    wave = np.sin(2 * np.pi * (np.cos(angle) * cols + np.sin(angle) * rows) / 5 + draw.uniform(0, 2 * np.pi))
    return np.asarray(wave * 1.5)


def planted(kinds: NDArray[np.int64], draw: np.random.Generator, halves: bool = False) -> tuple[Tensor, Tensor]:
    """Noise of 64 px with a patch of 20 px per class of a row; with the patches' places, as (row, col)."""
    x = draw.normal(0, 0.4, (len(kinds), 3, 64, 64))
    places = draw.integers(0, 44, (*kinds.shape, 2))
    if halves:  # the first patch left, the second right
        places[..., 1] = draw.integers([0, 32], [12, 44], kinds.shape)
    for i, j in np.ndindex(kinds.shape):
        row, col = places[i, j]
        x[i, :, row : row + 20, col : col + 20] += grating(int(kinds[i, j]), 20, draw)
    return torch.from_numpy(x).float(), torch.from_numpy(places)


def learn(seed: int) -> Any:
    """A small ResNet that has learnt to tell four kinds of patches."""
    draw = np.random.default_rng(seed)
    net = toy(4, (16, 24, 32, 48), torch.float32).train()
    optimiser = torch.optim.AdamW(net.parameters(), lr=3e-3)
    for _ in range(120):
        kinds = draw.integers(0, 4, (32, 1))
        x, _places = planted(kinds, draw)
        loss = F.cross_entropy(net(x), torch.from_numpy(kinds[:, 0]))
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    return net.eval()


@pytest.fixture(scope="module")
def reader() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # so that a machine with more cores trains the same network
    net = learn(0)
    torch.set_num_threads(threads)
    return net


def inside(maps: Tensor, places: Tensor) -> Tensor:
    """Mean of each map (B, h, w) over the patch at (B, 2), after bilinear enlargement."""
    large = F.interpolate(maps[:, None], (64, 64), mode="bilinear")[:, 0]
    return torch.stack([m[r : r + 20, c : c + 20].mean() for m, (r, c) in zip(large, places.tolist(), strict=True)])


def peaks_inside(maps: Tensor, places: Tensor) -> float:
    """Share of maps whose highest value lies in the patch; a tenth by chance."""
    large = F.interpolate(maps[:, None], (64, 64), mode="bilinear")[:, 0]
    peak = torch.stack(torch.unravel_index(large.flatten(1).argmax(dim=1), (64, 64)), dim=1)
    return float(((peak >= places) & (peak < places + 20)).all(dim=1).float().mean())


@pytest.mark.parametrize(("layer", "share"), [("layer1", 0.8), ("layer2", 0.8), ("layer3", 0.4)])
def test_relevance_lands_on_the_planted_patch(reader: nn.Module, layer: str, share: float) -> None:
    draw = np.random.default_rng(1)
    kinds = draw.integers(0, 4, (40, 1))
    x, places = planted(kinds, draw)
    with torch.no_grad():
        assert float((reader(x).argmax(1) == torch.from_numpy(kinds[:, 0])).float().mean()) >= 0.95
    maps = relevance_maps(reader, x, torch.from_numpy(kinds[:, 0]), layers=(layer,))[layer]
    assert peaks_inside(maps, places[:, 0]) >= share  # a cell of layer3 is nearly as large as the patch
    assert float((inside(maps, places[:, 0]) > 0).float().mean()) == 1  # the true patch never counts against its city


@pytest.mark.parametrize("method", METHODS)
def test_of_two_patches_that_of_the_asked_city_is_found(reader: nn.Module, method: str) -> None:
    draw = np.random.default_rng(2)
    kinds = np.array([draw.permutation(4)[:2] for _ in range(40)])
    x, places = planted(kinds, draw, halves=True)
    maps = relevance_maps(reader, x, torch.from_numpy(kinds[:, 0]), method=method, layers=("layer3",))["layer3"]
    assert float((inside(maps, places[:, 0]) > inside(maps, places[:, 1])).float().mean()) >= 0.8


@dataclass
class Chips:
    """Two scenes of three chips in memory, behind the door that data have."""

    scenes: gpd.GeoDataFrame
    chips: gpd.GeoDataFrame
    pixels: Tensor

    def loader(
        self, chip_ids: NDArray[np.int64], *, batches: Sequence[NDArray[np.int64]] | None = None
    ) -> list[dict[str, Tensor]]:
        groups = np.split(chip_ids, range(4, len(chip_ids), 4)) if batches is None else batches
        return [{"image": self.pixels[ids.tolist()], "chip_id": torch.tensor(ids)} for ids in groups]


@dataclass
class Model:
    """A network that knows its cities."""

    model: Any
    cities: tuple[str, ...] = ("ALA", "BAN", "CAI", "DEL")
    device: torch.device = torch.device("cpu")  # noqa: RUF009

    def prepare(self, images: Tensor) -> Tensor:
        return F.interpolate(images.float() / 127.5 - 1, (64, 64), mode="bilinear")


@pytest.fixture
def data() -> Chips:
    scene: dict[str, Any] = {
        **{"city_name": None, "path": "a.tif", "crs": "EPSG:32643", "width": 96, "height": 48, "bands": 3},
        **{"dtype": "uint8", "nodata": None, "gsd_m": 1.0, "acquired": None, "georef": "geotiff"},
        **{"accuracy_m": None, "sha256": "", "valid_fraction": 1.0, "site": "s"},
        **{"source": "a.tif", "channels": (1, 2, 3), "low": None, "high": None},
    }
    scenes = [
        scene | {"scene_id": name, "city": city, "transform": [1.0, 0.0, east, 0.0, -1.0, 4_800_000.0]}
        for name, city, east in (("one", "BAN", 600_000.0), ("two", None, 700_000.0))
    ]
    numbers = np.arange(6)
    chips = {
        **{"chip_id": numbers, "scene_id": ["one"] * 3 + ["two"] * 3, "city": ["BAN"] * 3 + [None] * 3},
        **{"row": 0 * numbers, "col": numbers % 3 * 24, "height": 48, "width": 48, "stride": 24, "size": 48},
    }
    place = box(77, 43, 78, 44)
    pixels = np.random.default_rng(5).integers(0, 256, (6, 3, 48, 48), dtype=np.uint8)
    return Chips(
        gpd.GeoDataFrame(scenes, geometry=[place] * 2, crs=4326),
        gpd.GeoDataFrame(chips, geometry=[place] * 6, crs=4326),
        torch.from_numpy(pixels),
    )


def ask(data: Chips, *, chips: tuple[int, ...] = (4, 0, 2, 5, 1), **options: Any) -> Saliency:
    return explain(Model(toy(dtype=torch.float32)), data, chips=np.array(chips, np.int64), **options)


@pytest.mark.parametrize("method", METHODS)
def test_explained_chips_keep_order_window_and_grid(data: Chips, method: str) -> None:
    why = ask(data, layers=("layer4", "layer2"), method=method)
    assert why.layers == ("layer2", "layer4")
    assert why.chip_id.tolist() == [4, 0, 2, 5, 1]
    assert why.scene_id == ("two", "one", "one", "two", "one")
    assert why.windows.tolist() == [[0, 24 * (i % 3), 48, 48] for i in (4, 0, 2, 5, 1)]
    assert why.stride.tolist() == [24] * 5
    assert {name: grid.transform.c for name, grid in why.grids.items()} == {"one": 600_000.0, "two": 700_000.0}
    assert why.maps["layer2"].shape == (5, 8, 8)
    assert why.maps["layer2"].dtype == np.float32
    assert (why.method, why.input_size) == (method, 64)
    assert ("start" in why.notes) == (method in STARTS)


def test_explained_maps_are_those_of_the_chips_themselves(data: Chips) -> None:
    model = Model(toy(dtype=torch.float32))
    why = ask(data, target="CAI", layers=("layer3",))
    x = model.prepare(data.pixels[[4]])
    expected = relevance_maps(model.model, x, torch.tensor([2]), layers=("layer3",))["layer3"]
    np.testing.assert_allclose(why.maps["layer3"][0], expected[0], rtol=1e-4, atol=1e-6)
    assert why.city == ("CAI",) * 5


def test_all_chips_of_a_scene_are_explained_for_its_most_probable_city(data: Chips) -> None:
    model = Model(toy(dtype=torch.float32))
    with torch.no_grad():  # a head for which chips of one scene disagree
        model.model.fc.bias -= model.model(model.prepare(data.pixels)).mean(dim=0)
        model.model.fc.weight *= 20
        model.model.fc.bias *= 20
        probabilities = model.model(model.prepare(data.pixels)).softmax(dim=1)
    assert len(set(probabilities[:3].argmax(dim=1).tolist())) > 1
    expected = {
        "one": model.cities[int(probabilities[:3].mean(dim=0).argmax())],
        "two": model.cities[int(probabilities[4:].mean(dim=0).argmax())],
    }
    why = explain(model, data, chips=np.array([4, 0, 2, 5, 1]))
    assert why.city == tuple(expected[scene] for scene in why.scene_id)


def test_a_city_may_be_named_for_every_scene(data: Chips) -> None:
    why = ask(data, target={"one": "DEL", "two": "ALA"})
    assert why.city == ("ALA", "DEL", "DEL", "ALA", "DEL")
    assert why.notes["target"] == "predicted"
    with pytest.raises(RelevanceError, match="no city is named for 1 scenes, such as two"):
        ask(data, target={"one": "DEL"})


def test_one_city_can_be_told_from_another(data: Chips) -> None:
    why = ask(data, target="CAI", rather_than="ALA", layers=("layer3",))
    back = ask(data, target="ALA", rather_than="CAI", layers=("layer3",))
    assert why.rather_than == "ALA"
    assert why.notes["start"] == "logit margin of the city over the other, head decomposed exactly"
    np.testing.assert_allclose(why.maps["layer3"], -back.maps["layer3"], rtol=1e-4, atol=1e-6)
    assert why.select(np.array([True, False, False, False, False])).rather_than == "ALA"


def test_a_forward_pass_in_bfloat16_is_noted(data: Chips) -> None:
    exact, coarse = ask(data, target="CAI"), ask(data, target="CAI", precision="bf16")
    assert coarse.notes["precision"] == "bf16 forward"
    assert "precision" not in exact.notes
    assert np.corrcoef(exact.maps["layer4"].ravel(), coarse.maps["layer4"].ravel())[0, 1] > 0.99


def test_an_explainer_is_made_once_and_asked_often(data: Chips) -> None:
    asking = Explainer(Model(toy(dtype=torch.float32)), data, target="CAI", layers=("layer3",))
    parts = [asking(np.array(ids)) for ids in ([4, 0], [2, 5, 1])]
    whole = ask(data, target="CAI", layers=("layer3",))
    np.testing.assert_allclose(
        np.concatenate([part.maps["layer3"] for part in parts]), whole.maps["layer3"], rtol=1e-4, atol=1e-6
    )


def test_the_same_question_gets_the_same_bytes(data: Chips) -> None:
    first, second = ask(data, layers=LAYERS), ask(data, layers=LAYERS)
    assert all(first.maps[name].tobytes() == second.maps[name].tobytes() for name in LAYERS)
    assert first.notes == second.notes


def test_the_true_city_is_explained_where_it_is_known(data: Chips) -> None:
    assert ask(data, chips=(2, 0), target="true").city == ("BAN", "BAN")
    with pytest.raises(RelevanceError, match=r"city of 2 chips, such as chip 4 \(unknown\)"):
        ask(data, target="true")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": "XXX"}, "'XXX': give predicted, true, or one of ALA, BAN, CAI, DEL"),
        ({"chips": (1, 6)}, r"of 2 chips 1 are unknown \(chip 6 is not\)"),
        ({"chips": ()}, "none was asked for"),
        ({"chips": (1, 1)}, "1 chips are asked for twice"),
        ({"method": "lime"}, "'lime': take one of"),
        ({"target": "CAI", "rather_than": "CAI"}, "'CAI': give a city of the model that is not the target"),
        ({"target": "CAI", "rather_than": "XXX"}, "'XXX': give a city of the model"),
        ({"rather_than": "CAI"}, "target is 'predicted', rather than CAI: name the city"),
        ({"target": {"one": "XXX", "two": "CAI"}}, "target is 'XXX'"),
    ],
)
def test_explain_says_what_cannot_be_explained(data: Chips, options: dict[str, Any], message: str) -> None:
    with pytest.raises(RelevanceError, match=message):
        ask(data, **options)


def test_progress_sees_every_batch_of_both_passes(data: Chips) -> None:
    seen: list[tuple[str, int]] = []

    def watch(items: Any, *, total: int, label: str) -> Any:
        for item in items:
            seen.append((label, total))
            yield item

    ask(data, progress=watch)
    assert seen == [("predict", 1), ("explain", 1)]
