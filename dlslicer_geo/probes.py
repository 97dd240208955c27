"""A model and chips in, what it says of them when part of what they show is taken away out.

Shortcuts are what a model may lean on instead of streets and roofs: the colours of one flight, the sharpness of one
sensor, the compression of one archive. Each change removes one of them and leaves the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from io import BytesIO
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pandas import DataFrame
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor
from torch.nn import functional
from torchvision.transforms.v2.functional import gaussian_blur, rgb_to_grayscale

from dlslicer_geo.errors import ConfigError
from dlslicer_geo.types import Progress, quiet

SIGMA = 32
"""A blurred chip has lost everything smaller than about this share of its edge: layout is left."""


def colour_only(images: Tensor) -> Tensor:
    """Every pixel somewhere else: colours are left, nothing of what they draw. (B, 3, H, W) uint8 in and out."""
    count = images.shape[-1] * images.shape[-2]
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0)).to(images.device)
    return images.flatten(2)[..., order].view_as(images)


def grey(images: Tensor) -> Tensor:
    """Luminance alone. (B, 3, H, W) uint8 in and out."""
    found: Tensor = rgb_to_grayscale(images, num_output_channels=3)
    return found


def blur(images: Tensor) -> Tensor:
    """A Gaussian of 1/32 of the edge: the layout is left. (B, 3, H, W) uint8 in and out."""
    sigma = images.shape[-1] / SIGMA
    found: Tensor = gaussian_blur(images, [2 * int(2 * sigma) + 1] * 2, [sigma] * 2)
    return found


def jpeg(images: Tensor, quality: int) -> Tensor:
    """Compressed at a quality of 1 to 100 and read back. (B, 3, H, W) uint8 in and out."""
    pixels = images.permute(0, 2, 3, 1).cpu().numpy()
    found = torch.from_numpy(np.stack([_through_jpeg(chip, quality) for chip in pixels]))
    return found.permute(0, 3, 1, 2).to(images.device)


def coarser(images: Tensor, times: int) -> Tensor:
    """As if a pixel covered so many times the ground. (B, 3, H, W) uint8 in and out."""
    edge = max(1, images.shape[-1] // times)
    resized = partial(functional.interpolate, mode="bilinear", antialias=True)
    return resized(resized(images.float(), (edge, edge)), images.shape[-2:]).round().clamp(0, 255).to(torch.uint8)


CHANGES: Mapping[str, Callable[[Tensor], Tensor]] = {
    "colour only": colour_only,
    "grey": grey,
    "blur": blur,
    "jpeg 75": partial(jpeg, quality=75),
    "jpeg 30": partial(jpeg, quality=30),
    "jpeg 10": partial(jpeg, quality=10),
    "2x coarser": partial(coarser, times=2),
    "4x coarser": partial(coarser, times=4),
    "8x coarser": partial(coarser, times=8),
}
"""What can be done to a chip, by name."""


def probe(
    model: Any,
    data: Any,
    chip_ids: NDArray[np.int64],
    *,
    changes: Sequence[str] = tuple(CHANGES),
    progress: Progress = quiet,
) -> DataFrame:
    """Let a model name the city of changed chips.

    Args:
        model: a ``CityClassifier``.
        data: the ``ChipDataModule`` of the chips.
        chip_ids: (n,) int64.
        changes: names in :data:`CHANGES`.
        progress: shows how far it is.

    Returns:
        ``chip_id``, ``probe`` (the change), ``city`` (predicted), ``confidence``: n rows for each change.

    Raises:
        ConfigError: if a change is unknown.
    """
    strange = sorted(set(changes) - set(CHANGES))
    if strange:
        raise ConfigError(f"probe.changes names {', '.join(strange)}: known ones are {', '.join(CHANGES)}")
    batches = data.loader(chip_ids)
    label = f"{len(changes)} changes of {len(chip_ids)} chips"
    model.eval()
    with torch.inference_mode():
        rows = [
            _said(model, batch, name)
            for batch in progress(batches, total=len(batches), label=label)
            for name in changes
        ]
    if not rows:
        return DataFrame({"chip_id": np.zeros(0, np.int64), "probe": [], "city": [], "confidence": []})
    columns = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
    return DataFrame(columns).sort_values(["probe", "chip_id"], ignore_index=True)


def frozen_baseline(
    backbone: Any,
    data: Any,
    chip_ids: NDArray[np.int64],
    *,
    per_city: int = 500,
    seed: int = 0,
    progress: Progress = quiet,
) -> DataFrame:
    """What the network's features are worth without any training: a logistic regression on top of them.

    Args:
        backbone: a ``CityClassifier`` with the weights that training started from.
        data: the ``ChipDataModule``; its train chips are learnt from.
        chip_ids: (n,) int64, the chips that are answered for.
        per_city: train chips drawn of each city at most.
        seed: seeds the draw.
        progress: shows how far it is.

    Returns:
        ``chip_id`` and ``city``.
    """
    train = data.chip_ids("train")
    labels = data.labels(train)
    random = np.random.default_rng(seed)
    drawn = np.sort(
        np.concatenate([random.permutation(train[labels == at])[:per_city] for at in np.unique(labels[labels >= 0])])
    )
    learner = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced", max_iter=2_000))
    learner.fit(_features(backbone, data, drawn, progress), data.labels(drawn))
    said = learner.predict(_features(backbone, data, chip_ids, progress))
    return DataFrame({"chip_id": chip_ids, "city": np.array(data.cities, object)[said]})


def _through_jpeg(chip: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    file = BytesIO()
    Image.fromarray(chip).save(file, format="JPEG", quality=quality)
    with Image.open(file) as image:
        return np.asarray(image)


def _said(model: Any, batch: dict[str, Tensor], name: str) -> dict[str, Any]:
    found = model(CHANGES[name](batch["image"]).to(model.device)).float() / model.temperature
    sure, city = found.softmax(dim=1).cpu().max(dim=1)
    names = np.array(model.cities, object)[city.numpy()]
    return {
        "chip_id": batch["chip_id"].numpy(),
        "probe": np.full(len(names), name, object),
        "city": names,
        "confidence": sure.numpy(),
    }


@torch.inference_mode()
def _features(model: Any, data: Any, chip_ids: NDArray[np.int64], progress: Progress) -> NDArray[np.float32]:
    model.eval()
    batches = data.loader(chip_ids)
    label = f"features of {len(chip_ids)} chips"
    found = [
        model.embed(batch["image"].to(model.device)).float().cpu()
        for batch in progress(batches, total=len(batches), label=label)
    ]
    return torch.cat(found).numpy()
