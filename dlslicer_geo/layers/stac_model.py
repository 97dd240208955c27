"""What is known of a trained model in, its STAC item of the extension for machine learning models out."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import pystac
import shapely

from dlslicer_geo.layers import stac_fields as fields
from dlslicer_geo.layers.stac_items import Place, Spans, asset

COLOURS = ("red", "green", "blue")
"""What a network sees, in this order."""

BANDS = [{"name": colour} for colour in COLOURS]
"""The same as STAC names bands. The core allows them in an item where an asset has them too."""

_VERSION = re.compile(r"\d+\.\d+\.\d+(?:\+[0-9A-Za-z.-]+)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedModel:
    """What a catalogue says of a model.

    Args:
        path: its checkpoint.
        name: timm's name of the network.
        cities: city codes in the order of the outputs.
        input_size: edge in pixels of what the network sees.
        mean: of red, green and blue, 0 to 1, which is taken away from the pixels.
        std: by which they are then divided.
        temperature: what the logits are divided by.
        detector: of unknown cities; empty for a model without one.
        threshold: of the detector: chips above it are of an unknown city.
        parameters: how many numbers the network holds.
        pretrained: whether its training began with the weights of another one.
        chip: the chips it was trained on.
        hyperparameters: how it was trained.
        metrics: how good it is, on which split.
        certificate: the file that says that no two splits share ground; None where there is none.
    """

    path: Path
    name: str
    cities: tuple[str, ...]
    input_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    temperature: float = 1.0
    detector: str = ""
    threshold: float | None = None
    parameters: int | None = None
    pretrained: bool = False
    chip: Mapping[str, Any] = field(default_factory=dict)
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    certificate: Path | None = None


def model_item(model: TrainedModel, place: Place, outline: Any, spans: Spans) -> pystac.Item:
    """The item of a model.

    Args:
        model: the model.
        place: of the document.
        outline: box around the scenes it was trained on, in degrees; None where there are none.
        spans: when these were taken.
    """
    begin, end = spans.all
    empty = outline is None or outline.is_empty
    item = pystac.Item(
        id="model", geometry=None if empty else shapely.geometry.mapping(outline),
        bbox=None if empty else list(outline.bounds), datetime=None, start_datetime=begin, end_datetime=end,
        properties=_properties(model) | fields.software(place.provenance),
        stac_extensions=[fields.MLM, fields.CLASSIFICATION, fields.FILE, fields.PROCESSING],
    )  # fmt: skip
    roles = ["mlm:model", "mlm:weights"]
    weights = asset(model.path, place, roles, {"mlm:artifact_type": "torch.save", "bands": BANDS}, sha256=None)
    proof = asset(model.certificate, place, ["metadata"], sha256=None) if model.certificate else None
    for key, found in (("model", weights), ("split_certificate", proof)):
        if found is not None:
            item.add_asset(key, found)
    return item


def _properties(model: TrainedModel) -> dict[str, Any]:
    known = _VERSION.match(metadata.version("torch"))
    name = re.sub(r"[^A-Za-z0-9_.-]+", " ", model.name).strip(" .-_") or "network"
    said: dict[str, Any] = {
        "title": f"{model.name}: which of {len(model.cities)} cities a chip comes from",
        "mlm:name": f"City classifier {name} of {len(model.cities)} cities",
        "mlm:architecture": model.name,
        "mlm:tasks": ["scene-classification"],
        "mlm:framework": "PyTorch",
        "mlm:pretrained": model.pretrained,
        "mlm:input": [_input(model)],
        "mlm:output": [_output(model)],
        "bands": BANDS,
        "dlslicer:temperature": model.temperature,
        "dlslicer:metrics": dict(model.metrics),
        "dlslicer:chip": {key: value for key, value in model.chip.items() if value is not None},
    }
    said |= {"mlm:framework_version": known[0]} if known else {}
    said |= {"mlm:total_parameters": model.parameters} if model.parameters is not None else {}
    said |= {} if model.pretrained else {"mlm:pretrained_source": None}
    said |= {"mlm:hyperparameters": dict(model.hyperparameters)} if model.hyperparameters else {}
    if model.detector:
        said |= {"dlslicer:detector": model.detector, "dlslicer:threshold": model.threshold}
    return said


def _input(model: TrainedModel) -> dict[str, Any]:
    """What the network itself sees. Pixels are 0 to 255 in the files, and so are mean and deviation here."""
    scaling = [
        {"type": "z-score", "mean": round(255 * mean, 6), "stddev": round(255 * std, 6)}
        for mean, std in zip(model.mean, model.std, strict=True)
    ]
    size = model.input_size
    return {
        "name": "chip",
        "description": "Pixels of a chip, 0 to 255; the checkpoint itself brings them to this size and scale.",
        "bands": list(COLOURS),
        "input": {
            "shape": [-1, 3, size, size], "dim_order": ["batch", "bands", "height", "width"],
            "data_type": "float32",
        },
        "value_scaling": scaling,
        "resize_type": "interpolation-linear",
    }  # fmt: skip


def _output(model: TrainedModel) -> dict[str, Any]:
    return {
        "name": "city",
        "tasks": ["scene-classification"],
        "description": "Logits; divided by the temperature and through a softmax they are probabilities.",
        "result": {"shape": [-1, len(model.cities)], "dim_order": ["batch", "class"], "data_type": "float32"},
        "classification:classes": fields.classes(model.cities),
    }
