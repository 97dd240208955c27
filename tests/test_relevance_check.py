"""The check tells maps that depend on the model from maps that do not, and leaves no trace."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import geopandas as gpd
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from relevance_nets import LAYERS, network, toy
from scipy.integrate import trapezoid
from shapely.geometry import box
from test_relevance import Model as Plain
from test_relevance import learn, planted
from torch import Tensor, nn

from dlslicer_geo.errors import RelevanceError
from dlslicer_geo.relevance import faithful, randomise
from dlslicer_geo.relevance.check import check, correlation
from dlslicer_geo.relevance.rules import RULES


@dataclass
class Planted:
    """Chips with a patch of their city each, behind the door that data have."""

    pixels: Tensor

    @property
    def chips(self) -> gpd.GeoDataFrame:
        return gpd.GeoDataFrame(
            {"chip_id": range(len(self.pixels))}, geometry=[box(77, 43, 78, 44)] * len(self.pixels)
        )

    @property
    def scenes(self) -> gpd.GeoDataFrame:
        raise AssertionError("a check is not asked where a chip lies")

    def loader(
        self, chip_ids: NDArray[np.int64], *, batches: Sequence[NDArray[np.int64]] | None = None
    ) -> list[dict[str, Tensor]]:
        groups = np.split(chip_ids, range(10, len(chip_ids), 10)) if batches is None else batches
        return [{"image": self.pixels[ids.tolist()], "chip_id": torch.tensor(ids)} for ids in groups]


@dataclass
class Model(Plain):
    """A network that knows its cities and the scale of planted patches."""

    edge: int = 64

    def prepare(self, images: Tensor) -> Tensor:
        return F.interpolate((images.float() - 128) / 40, (self.edge, self.edge), mode="bilinear")


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """So that a machine with more cores trains the same network."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def reader(one_thread: None) -> Any:
    return learn(0)


@pytest.fixture(scope="module")
def data() -> Planted:
    draw = np.random.default_rng(3)
    x, _places = planted(draw.integers(0, 4, (20, 1)), draw)
    return Planted((x * 40 + 128).clamp(0, 255).to(torch.uint8))


@pytest.fixture(scope="module")
def found(reader: Any, data: Planted) -> dict[str, Any]:
    return check(Model(reader), data, chips=np.arange(16))


def figures(found: dict[str, Any], key: str, method: str) -> list[Any]:
    return [row[key] for row in found["rows"] if row["method"] == method]


def test_only_the_published_maps_stay_the_same_when_the_head_forgets(found: dict[str, Any]) -> None:
    assert min(figures(found, "head_shuffled", "relevance-cam")[:3]) > 0.9  # layer4 lies right below the head
    for method in ("relevance-cam-margin", "grad-cam", "hires-cam"):
        assert max(figures(found, "head_shuffled", method)) < 0.3, method
    assert all(row["head_shuffled_absolute"] >= abs(row["head_shuffled"]) - 1e-6 for row in found["rows"])
    assert min(figures(found, "class_contrast", "relevance-cam")) > max(
        figures(found, "class_contrast", "relevance-cam-margin")
    )


def test_the_probability_follows_the_maps_of_a_trained_model_only(found: dict[str, Any], data: Planted) -> None:
    margin = [row for row in found["rows"] if row["method"] == "relevance-cam-margin" and row["layer"] != "layer4"]
    assert min(row["insertion"] - row["deletion"] for row in margin) > 0.1
    random = check(Model(toy(dtype=torch.float32)), data, chips=np.arange(20), methods=["relevance-cam-margin"])
    assert max(abs(row["insertion"] - row["deletion"]) for row in random["rows"]) < 0.05


def test_stages_forget_from_the_head_down_and_maps_end_up_unlike(found: dict[str, Any]) -> None:
    for row in found["rows"]:
        assert list(row["stages"]) == ["head", "layer4", "layer3", "layer2", "layer1"]
    assert max(abs(stages["layer1"]) for stages in figures(found, "stages", "relevance-cam-margin")) < 0.6
    assert min(stages["head"] for stages in figures(found, "stages", "relevance-cam")[:3]) > 0.9


class Leaky(nn.ReLU):
    """A rectifier whose rule keeps only a share of the relevance."""

    share = 0.9


@pytest.fixture
def leaky() -> Iterator[type[nn.Module]]:
    RULES[Leaky] = lambda module, x, relevance: module.share * relevance
    yield Leaky
    del RULES[Leaky]


def test_a_rule_that_loses_relevance_shows_from_its_depth_on(
    reader: Any, data: Planted, found: dict[str, Any], leaky: type[nn.Module]
) -> None:
    assert max(row["conservation"] for row in found["rows"] if row["method"].startswith("relevance")) < 1e-5
    assert figures(found, "conservation", "grad-cam") == [None] * 4
    broken = copy.deepcopy(reader)
    broken.layer4[0].act2 = leaky(inplace=True)
    lost = check(Model(broken), data, chips=np.arange(8), methods=["relevance-cam"])["rows"]
    by_layer = {row["layer"]: row["conservation"] for row in lost}
    assert by_layer["layer4"] < 1e-5
    # of +1 for the city and -1/4 for each of three others a tenth of the sum is lost
    assert [by_layer[layer] for layer in LAYERS[:3]] == pytest.approx([0.1 * 0.25 / 1.75] * 3, rel=1e-3)
    broken.layer4[0].act2.share = np.nan
    lost = check(Model(broken), data, chips=np.arange(2), methods=["relevance-cam"])["rows"]
    assert [row["conservation"] is None for row in lost] == [True, True, True, False], "what is no number is not 0"


def test_a_twin_that_is_the_model_itself_agrees_wholly_and_another_seed_less(reader: Any, data: Planted) -> None:
    options: dict[str, Any] = {"chips": np.arange(12), "layers": ["layer2"], "methods": ["relevance-cam-margin"]}
    (same,) = check(Model(reader), data, twin=Model(copy.deepcopy(reader)), **options)["rows"]
    turned = copy.deepcopy(reader)
    turned.fc.weight.data, turned.fc.bias.data = turned.fc.weight.data.flip(0), turned.fc.bias.data.flip(0)
    (renamed,) = check(Model(reader), data, twin=Model(turned, ("DEL", "CAI", "BAN", "ALA")), **options)["rows"]
    (other,) = check(Model(reader), data, twin=Model(toy(dtype=torch.float32)), **options)["rows"]
    assert same["twin"] == renamed["twin"] == 1, "cities are matched by name"
    assert other["twin"] < 0.7


def state(model: Model) -> tuple[Any, ...]:
    net = model.model
    return (
        {name: values.clone() for name, values in net.state_dict().items()},
        [module.training for module in net.modules()],
        [weight.requires_grad for weight in net.parameters()],
        [len(module._forward_hooks) + len(module._backward_hooks) for module in net.modules()],
        [weight.grad for weight in net.parameters()],
        torch.get_rng_state(),
    )


@pytest.mark.parametrize(
    ("ending", "when"),
    [
        (None, "never"),
        (ValueError, "shuffle the head"),
        (KeyboardInterrupt, "forget stages"),
        (KeyboardInterrupt, "remove pixels"),
    ],
)
def test_the_model_and_the_generator_are_as_before(ending: Any, when: str, data: Planted) -> None:
    model = Model(toy(dtype=torch.float32).train())
    model.model.layer2.requires_grad_(False)
    model.model.layer1.eval()

    def stop(items: Iterable[Any], *, total: int, label: str) -> Iterator[Any]:
        for number, item in enumerate(items):
            if ending and label == when and number == 2:
                raise ending
            yield item

    options: dict[str, Any] = {"chips": np.arange(2), "methods": ["relevance-cam", "grad-cam"], "progress": stop}
    before = state(model)
    if ending is None:
        check(model, data, **options)
    else:
        with pytest.raises(ending):
            check(model, data, **options)
    after = state(model)
    assert all(torch.equal(before[0][name], after[0][name]) for name in before[0])
    assert before[1:-1] == after[1:-1]
    assert torch.equal(before[-1], after[-1])


def test_the_same_seed_gives_the_same_json_and_another_one_another(data: Planted) -> None:
    model = Model(toy(dtype=torch.float32))
    methods = ("layer-cam", "relevance-cam-contrastive")
    options: dict[str, Any] = {"chips": np.array([5, 1]), "layers": ["layer3", "layer2"], "methods": methods}
    first = check(model, data, **options)
    torch.manual_seed(99)
    second = check(model, data, **options)
    third = check(model, data, seed=1, **options)
    assert json.dumps(first, allow_nan=False) == json.dumps(second, allow_nan=False)
    assert [row["stages"] for row in first["rows"]] != [row["stages"] for row in third["rows"]]
    assert [(row["method"], row["layer"]) for row in first["rows"]] == [
        (method, layer) for method in methods for layer in ("layer2", "layer3")
    ]
    assert (first["chips"], first["cities"], first["input_size"]) == (2, 4, 64)
    assert list(first["rows"][0]["stages"]) == ["head", "layer4", "layer3", "layer2"]


@pytest.mark.parametrize(("name", "refused"), [("seresnet18", "layer1.0.se"), ("convnext_atto", "ConvNeXt")])
def test_a_network_without_rules_is_still_checked_by_gradients(name: str, refused: str, data: Planted) -> None:
    model = Model(network(name, 4))
    found = check(model, data, chips=np.arange(1), layers=["layer4"])
    assert {row["method"] for row in found["rows"]} == {"grad-cam", "hires-cam", "layer-cam"}
    assert found["network"] == name
    assert refused in found["notes"][0] and "Relevance-CAM is left out" in found["notes"][0]
    with pytest.raises(RelevanceError, match="has no relevance rule"):
        check(model, data, chips=np.arange(2), methods=["relevance-cam"])


def test_parameters_that_cannot_be_reset_are_named() -> None:
    assert randomise.left_over(network("convnext_atto", 4), "layer4")[0].endswith("gamma")
    assert randomise.left_over(toy(), "layer1") == []


def test_a_vision_transformer_is_refused_in_one_sentence(data: Planted) -> None:
    model = Model(network("vit_tiny_patch16_224", 4, img_size=64))
    with pytest.raises(RelevanceError):
        check(model, data, chips=np.arange(2))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": ["layer9"]}, r"layers are \['layer9'\], this network has layer1, layer2, layer3, layer4"),
        ({"methods": ["lime"]}, r"methods are \['lime'\]: take one or more of relevance-cam, "),
        ({"methods": []}, r"methods are \[\]"),
        ({"chips": np.array([1, 77])}, "chip 77 is not"),
        ({"twin": Model(None, ("ALA", "BAN", "CAI", "ULN"))}, "differ in 2 cities, such as DEL: take a model of"),
        ({"twin": Model(toy(dtype=torch.float32), edge=32)}, "the twin sees 32 px and the model 64 px"),
    ],
)
def test_what_cannot_be_checked_is_refused(data: Planted, options: dict[str, Any], message: str) -> None:
    with pytest.raises(RelevanceError, match=message):
        check(Model(toy(dtype=torch.float32)), data, **({"chips": np.arange(2)} | options))


def test_a_model_of_one_city_has_no_runner_up(data: Planted) -> None:
    with pytest.raises(RelevanceError, match="knows 1 city"):
        check(Model(toy(1, dtype=torch.float32), ("ALA",)), data, chips=np.arange(2), methods=["grad-cam"])


def test_maps_of_one_cell_have_no_correlation_and_are_counted(data: Planted) -> None:
    found = check(
        Model(toy(dtype=torch.float32), edge=32), data, chips=np.arange(3), layers=["layer4"], methods=["grad-cam"]
    )
    (row,) = found["rows"]
    assert row["stages"] == {"head": None, "layer4": None}
    assert [row[key] for key in ("head_shuffled", "head_shuffled_absolute", "insertion", "average_drop")] == [
        None
    ] * 4
    assert "30 by grad-cam at layer4, of 30 each" in found["notes"][-1]


def test_progress_sees_all_long_work(data: Planted) -> None:
    seen: list[tuple[str, int]] = []

    def watch(items: Iterable[Any], *, total: int, label: str) -> Iterator[Any]:
        for item in items:
            seen.append((label, total))
            yield item

    model = Model(toy(dtype=torch.float32))
    check(model, data, chips=np.arange(3), layers=["layer3"], methods=["grad-cam"], twin=model, progress=watch)
    assert all(seen.count((label, total)) == total for label, total in seen)
    assert {label for label, _ in seen} == {"read", "shuffle the head", "forget stages", "remove pixels"}


def test_correlation_is_pearsons_of_every_image_with_its_sign() -> None:
    draw = torch.Generator().manual_seed(0)
    one, other = (torch.randn(3, 5, 4, generator=draw, dtype=torch.float64) + 7 for _ in range(2))
    other[1], other[2] = -2 * one[1] + 3, 5.0
    expected = np.corrcoef(one[0].flatten(), other[0].flatten())[0, 1]
    np.testing.assert_allclose(correlation(one, other), [expected, -1, np.nan], atol=1e-12)
    np.testing.assert_allclose(correlation(one * 1e-30, one * 1e-30), 1, atol=1e-12)
    one[0, 0, 0] = torch.nan
    assert np.isnan(correlation(one, one)).tolist() == [True, False, False]


@pytest.mark.parametrize("name", ["resnet18", "tf_efficientnet_lite0", "convnext_atto"])
def test_every_parameter_is_forgotten_once_and_the_deepest_first(name: str) -> None:
    net = network(name, 4)
    stages = randomise.stages(net, "layer1")
    modules = [module for stage in stages.values() for module in stage.values()]
    assert len(modules) == len(set(map(id, modules))) == len(list(net.modules()))
    assert any(module is net.get_classifier() for module in stages["head"].values())
    before = {key: values.clone() for key, values in net.state_dict().items()}
    changed: set[str] = set()
    for stage, forgetful in randomise.cascade(net, "layer2", 0):
        now = {key for key, values in forgetful.state_dict().items() if not torch.equal(values, before[key])}
        assert changed < now, f"{stage} adds to what was forgotten before"
        changed = now
    assert all(torch.equal(values, before[key]) for key, values in net.state_dict().items())
    stem = next(key for key in before if key.endswith("weight"))
    assert stem not in changed, "what lies before layer2 is kept"


def test_a_shuffled_head_has_the_same_weights_for_other_features() -> None:
    net = toy()
    shuffled: Any = randomise.with_shuffled_head(net, 0, 0)
    assert not torch.equal(shuffled.fc.weight, net.fc.weight)
    assert torch.equal(shuffled.fc.weight.sort(dim=1).values, net.fc.weight.sort(dim=1).values)
    assert torch.equal(shuffled.layer4[0].conv1.weight, net.layer4[0].conv1.weight)


class Corner(nn.Module):
    """Says class 1 by the brightness of the upper left quarter, and nothing else."""

    def forward(self, x: Tensor) -> Tensor:
        bright = x[:, :, : x.shape[2] // 2, : x.shape[3] // 2].mean(dim=(1, 2, 3))
        return torch.stack([torch.zeros_like(bright), 4 * bright - 2], dim=1)


def quarter() -> tuple[Tensor, Tensor, faithful.Subjects]:
    """An image that is bright in its upper left quarter; maps that point there and away from it."""
    image = torch.zeros(2, 3, 32, 32)
    image[:, :, :16, :16] = 1
    right = torch.zeros(2, 8, 8)
    right[:, :4, :4] = 1
    right += torch.rand(2, 8, 8, generator=torch.Generator().manual_seed(0)) * 0.01
    return image, right, faithful.subjects(Corner(), image, torch.tensor([1, 1]))


def test_insertion_and_deletion_equal_a_slow_twin() -> None:
    image, right, shown = quarter()
    insertion, deletion = faithful.insertion_deletion(Corner(), shown, right)
    large = F.interpolate(right[:, None], (32, 32), mode="bilinear")[0, 0].numpy()
    order = sorted((-large[i, j], i, j) for i in range(32) for j in range(32))
    curves: dict[str, list[float]] = {"insertion": [], "deletion": []}
    for step in range(faithful.STEPS + 1):
        chosen = order[: round(len(order) * step / faithful.STEPS)]
        rows, cols = [at[1] for at in chosen], [at[2] for at in chosen]
        for name, start, end in (("insertion", shown.blurred, image), ("deletion", image, shown.blurred)):
            mixed = start[:1].clone()
            mixed[0, :, rows, cols] = end[0][:, rows, cols]
            curves[name].append(float(Corner()(mixed).double().softmax(dim=1)[0, 1]))
    assert insertion[0] == pytest.approx(trapezoid(curves["insertion"], dx=1 / faithful.STEPS), abs=1e-6)
    assert deletion[0] == pytest.approx(trapezoid(curves["deletion"], dx=1 / faithful.STEPS), abs=1e-6)


def test_maps_that_point_the_right_way_win_every_test_of_faithfulness() -> None:
    _, right, shown = quarter()
    insertion, deletion = faithful.insertion_deletion(Corner(), shown, right)
    wrong_insertion, wrong_deletion = faithful.insertion_deletion(Corner(), shown, -right)
    assert (insertion > wrong_insertion + 0.05).all() and (deletion < wrong_deletion - 0.05).all()
    drop, increase = faithful.drop_increase(Corner(), shown, right)
    wrong_drop, _ = faithful.drop_increase(Corner(), shown, -right)
    assert (drop < 0.1).all() and (wrong_drop > 0.2).all() and (increase == 0).all()


def test_the_drop_is_a_share_of_the_probability_and_a_rise_is_no_drop() -> None:
    _, right, shown = quarter()
    dark = faithful.subjects(Corner(), -shown.images, torch.tensor([1, 1]))
    drop, increase = faithful.drop_increase(Corner(), dark, -right)
    assert (drop == 0).all() and (increase == 1).all()
    away, _ = faithful.drop_increase(Corner(), shown, -right)
    whole, none = 1 / (1 + np.exp(-2)), 1 / (1 + np.exp(2))
    assert away == pytest.approx((whole - none) / whole, abs=0.1)
