"""A fitted model knows how sure it may be and when it does not know, and whoever reads its files knows it too."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pytest
import torch
import towns
from torch.utils.data import DataLoader

import dlslicer_geo as dl
from dlslicer_geo import config, pipeline
from dlslicer_geo.data import ChipDataModule
from dlslicer_geo.files import read_json
from dlslicer_geo.model import CityClassifier, load
from dlslicer_geo.model.unknown import seal
from dlslicer_geo.pipeline.calibration import calibrate
from dlslicer_geo.pipeline.runs import Run
from dlslicer_geo.predict import predict
from dlslicer_geo.types import DETECTORS


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run up to its predictions."""
    folder = tmp_path_factory.mktemp("calibrated")
    experiment = config.load(towns.build(folder))
    return pipeline.run(experiment, folder / "run", stations=("scan", "cut", "split", "fit", "predict"))


@pytest.fixture(scope="module")
def data(run: Run) -> ChipDataModule:
    return ChipDataModule(run.scenes(), run.chips(), batch_size=16)


def test_fit_writes_what_it_found_out_into_the_checkpoint_and_load_gives_it_back(
    run: Run, data: ChipDataModule
) -> None:
    stored = torch.load(run.checkpoint, weights_only=True)
    model, noted = load(run.folder), read_json(run.folder / "run.json")["stations"]["fit"]["calibration"]
    assert stored["hyper_parameters"]["detector"] == model.hparams["detector"] == noted["detector"] == "knn"
    assert float(model.temperature) == pytest.approx(noted["temperature"], rel=1e-6)
    assert model.thresholds.tolist() == pytest.approx([noted["thresholds"][name] for name in DETECTORS], rel=1e-6)
    assert model.threshold == pytest.approx(noted["thresholds"]["knn"], rel=1e-6)
    assert noted["chips"] == len(data.chip_ids("val"))
    assert torch.equal(stored["state_dict"]["bank"], model.bank)
    assert len(model.bank) == len(data.chip_ids("train"))  # no city has more chips than are remembered
    assert model.bank.square().sum(dim=1).numpy() == pytest.approx(1, abs=1e-4)


def test_another_detector_can_decide(run: Run, data: ChipDataModule, tmp_path: Path) -> None:
    file = Path(shutil.copy(run.checkpoint, tmp_path / "model.ckpt"))
    noted = calibrate(load(file), data, file, detector="energy")
    again = load(file)
    assert again.hparams["detector"] == "energy"
    assert again.threshold == pytest.approx(noted["thresholds"]["energy"], rel=1e-6)


def test_every_threshold_keeps_95_of_100_chips_of_val(run: Run, data: ChipDataModule) -> None:
    model = load(run.checkpoint)
    batches = list(model.infer(data.loader(data.chip_ids("val"))))
    for number, name in enumerate(DETECTORS):
        scores = torch.cat([batch[name] for batch in batches])
        kept = (scores <= model.thresholds[number]).float().mean()
        assert 0.95 <= float(kept) <= 1, name
        assert bool((scores == model.thresholds[number]).any()), name  # the lowest that keeps so many is a chip's own


def test_predictions_say_temperature_detector_threshold_and_scores(run: Run) -> None:
    model, folder = load(run.checkpoint), run.folder / "predictions"
    manifest = read_json(folder / "manifest.json")
    assert manifest["temperature"] == float(model.temperature)
    assert (manifest["detector"], manifest["threshold"]) == ("knn", model.threshold)
    part = gpd.read_parquet(folder / "part-0.parquet")
    assert part["unknown_score"].equals(part["score_knn"].rename("unknown_score"))
    assert {f"score_{name}" for name in DETECTORS} <= set(part.columns)
    no = part["score_knn"].to_numpy() > np.float32(manifest["threshold"])
    assert part["answer"].tolist() == np.where(no, "unknown", part["city"]).tolist()
    found = dl.read_predictions(folder)
    assert (found.detector, found.threshold, found.temperature) == ("knn", model.threshold, manifest["temperature"])
    assert found.unknown.sum() == sum(answer == "unknown" for answer in found.answer)


@pytest.mark.parametrize("temperature", [0.5, 2.5])
def test_the_temperature_is_in_the_probabilities_and_can_be_taken_back(
    temperature: float, run: Run, data: ChipDataModule, tmp_path: Path
) -> None:
    shutil.copy(run.checkpoint, tmp_path)
    thresholds = dict.fromkeys(DETECTORS, 0.25)
    seal(load(tmp_path), tmp_path / "model.ckpt", temperature=temperature, thresholds=thresholds, detector="softmax")
    model = load(tmp_path)
    found = predict(model, data, split="test", out=tmp_path / "predictions")
    images = torch.stack([data.dataset[int(i)]["image"] for i in found.chip_id])
    with torch.inference_mode():
        logits = model(images)
    assert found.probabilities == pytest.approx((logits / temperature).softmax(dim=1).numpy(), abs=1e-5)
    assert found.uncalibrated == pytest.approx(logits.softmax(dim=1).numpy(), abs=1e-5)
    assert not np.allclose(found.uncalibrated, found.probabilities, atol=1e-3)
    surest = found.uncalibrated.max(axis=1)  # the detectors look at what the network said
    assert found.unknown_scores["softmax"] == pytest.approx(1 - surest, abs=1e-5)
    assert found.unknown.tolist() == (found.unknown_scores["softmax"] > np.float32(0.25)).tolist()


def test_a_model_without_calibration_never_answers_unknown(data: ChipDataModule, tmp_path: Path) -> None:
    model = CityClassifier("test_resnet", cities=data.cities, input_size=64).eval()
    found = predict(model, data, split="test", out=tmp_path)
    assert (model.threshold, found.threshold, found.temperature) == (None, None, 1)
    assert not found.unknown.any()
    assert (found.answer == found.city).all()
    assert np.array_equal(found.unknown_scores["knn"], np.zeros(len(found)))
    assert np.allclose(found.uncalibrated, found.probabilities, atol=1e-6)


def test_chips_of_noise_and_of_nothing_are_unknown_and_those_of_known_cities_are_not(
    run: Run, data: ChipDataModule
) -> None:
    model = load(run.checkpoint)
    noise = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (24, 3, 64, 64), dtype=np.uint8))
    strange = torch.cat([noise, torch.zeros(8, 3, 64, 64, dtype=torch.uint8)])
    chips: Any = [
        {"image": image, "label": torch.tensor(-1), "chip_id": torch.tensor(at)} for at, image in enumerate(strange)
    ]
    (said,) = model.infer(DataLoader(chips, batch_size=32))
    assert model.threshold is not None
    assert bool((said["knn"] > model.threshold).all())
    assert dl.read_predictions(run.folder / "predictions").unknown.mean() < 0.5


def test_training_again_in_one_process_forgets_what_was_found_out(data: ChipDataModule, tmp_path: Path) -> None:
    model = CityClassifier("test_resnet", cities=data.cities, input_size=64)
    dl.fit(model, data, max_epochs=1, out=tmp_path / "first")
    model.temperature.fill_(7.0)
    assert len(model.bank) > 0 and model.threshold is not None
    dl.fit(model, data, max_epochs=1, out=tmp_path / "second")
    best: dict[str, Any] = torch.load(tmp_path / "second" / "fit" / "best.ckpt", weights_only=True)
    assert float(best["state_dict"]["temperature"]) == 1
    assert best["state_dict"]["bank"].numel() == 0
    again = load(tmp_path / "second")
    assert len(again.bank) == len(data.chip_ids("train"))
    assert again.threshold == model.threshold
    assert float(again.temperature) == float(model.temperature) != 7
