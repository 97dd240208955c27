"""A classifier and a data module in, the best epoch's checkpoint out."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from lightning.fabric.utilities.distributed import DistributedSamplerWrapper
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import EarlyStopping, EMAWeightAveraging, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from dlslicer_geo.errors import ModelError
from dlslicer_geo.files import atomic
from dlslicer_geo.model import weights as weight_files
from dlslicer_geo.model.classifier import CityClassifier
from dlslicer_geo.model.hush import lightning_quiet
from dlslicer_geo.model.running import computes_bf16, interruptible, placed
from dlslicer_geo.types import Progress, quiet

logger = logging.getLogger(__name__)

AVERAGING = ("current_model_state", "averaging_state")
"""What a checkpoint holds only for a training with a running mean to go on."""

PLAIN: Mapping[str, Any] = {
    "enable_model_summary": False, "enable_progress_bar": False, "log_every_n_steps": 1,
    "use_distributed_sampler": False,  # which would shuffle an order that was drawn with care
}  # fmt: skip
"""What the Trainer is always told."""

FLIPS: tuple[tuple[int, ...], ...] = ((), (-1,), (-2,), (-2, -1))
"""Axes along which the views of a chip are mirrored."""


def fit(
    model: CityClassifier,
    data: Any,
    *,
    max_epochs: int = 100,
    out: str | Path = "runs/fit",
    views: int = 1,
    early_stopping: int | None = None,
    ema: float = 0.0,
    accumulate: int = 1,
    precision: Literal["auto", "float32", "bf16"] = "auto",
    loggers: Sequence[Logger] = (),
    seed: int = 0,
    trainer: Mapping[str, Any] | None = None,
    progress: Progress = quiet,
) -> CityClassifier:
    """Train, keep the epoch with the smallest validation loss, and write ``out/model.ckpt``.

    Checkpoints and logs lie under ``out/fit``; an interrupted training goes on from ``out/fit/last.ckpt``. Several
    processes see disjoint shares of every epoch: a step is one of ``batch_size`` chips for each of them, and val_loss
    that of all val chips.

    Args:
        model: the classifier; its weights are replaced by the best epoch's.
        data: a ``ChipDataModule`` whose cities are the model's.
        max_epochs: epochs at most.
        out: run folder.
        views: with a frozen backbone, mirror images per training chip (1 to 4) whose features are computed once.
        early_stopping: stop after so many epochs without a smaller val_loss; None never.
        ema: validate and keep a running mean of the weights, of which a step leaves this share; 0 keeps the weights.
        accumulate: batches whose gradients are added up before the weights move.
        precision: ``float32``, ``bf16`` (mixed, as Lightning does), or ``auto``: bf16 on an accelerator that computes
            in it, float32 otherwise and on every CPU.
        loggers: Lightning loggers beside CSV and TensorBoard.
        seed: seeds everything.
        trainer: keyword arguments of Lightning's ``Trainer`` that say where the work is done: ``accelerator``,
            ``devices``, ``num_nodes``, ``strategy``; all processes call this function.
        progress: shows how far the training is, and before it the feature pass of a frozen backbone.

    Raises:
        ModelError: if the cities of model and data differ.
        SplitError: if train or val has no chip.
    """
    if tuple(data.cities) != model.cities:
        raise ModelError(
            f"the model knows {list(model.cities)} but the data hold {list(data.cities)}: build it with these"
        )
    folder = Path(out) / "fit"
    model.forget()
    seed_everything(seed, workers=True, verbose=False)
    best = ModelCheckpoint(folder, filename="best", monitor="val_loss", enable_version_counter=False)
    newest = ModelCheckpoint(folder, filename="last", enable_version_counter=False)  # also of an epoch no better
    accelerator = str((trainer or {}).get("accelerator", "auto"))
    with lightning_quiet():
        lightning = Trainer(
            max_epochs=max_epochs, accumulate_grad_batches=accumulate, precision=_precision(precision, accelerator),
            callbacks=[best, newest, _EpochLog(), _Steps(progress), *_wanted(early_stopping, ema)],
            logger=[*_own(folder), *loggers],
            # a CPU repeats itself anyway
            deterministic="warn" if torch.accelerator.is_available() else None,
            **PLAIN, **(trainer or {}),
        )  # fmt: skip
        with placed(model, accelerator):
            cached = _Cached(model, data, views, lightning, progress) if model.frozen else None
        source = cached.loaders() if cached else {"datamodule": data}
        last = folder / "last.ckpt"
        with interruptible(lightning):
            lightning.fit(model, **source, ckpt_path=last if last.is_file() else None, weights_only=True)
    stored = weight_files.read(Path(best.best_model_path))
    model.load_state_dict(stored["state_dict"])
    if cached:
        cached.fold()
    _write(lightning, model, stored, Path(out) / "model.ckpt")
    model.eval()
    return model


def _precision(asked: str, accelerator: str) -> Literal["32-true", "bf16-mixed"]:
    """Lightning's name for a precision."""
    device = torch.accelerator.current_accelerator(check_available=True) if accelerator != "cpu" else None
    auto = asked == "auto" and device is not None and computes_bf16(device)
    return "bf16-mixed" if asked == "bf16" or auto else "32-true"


def _write(trainer: Trainer, model: CityClassifier, stored: Mapping[str, Any], path: Path) -> None:
    """The best epoch's checkpoint, without what only a training needs to go on; there when any process goes on."""
    if trainer.is_global_zero:
        with atomic(path) as temporary:
            kept = {name: values for name, values in stored.items() if name not in AVERAGING}
            torch.save(kept | {"state_dict": model.state_dict()}, temporary)
    trainer.strategy.barrier()


def _own(folder: Path) -> list[Logger]:
    return [CSVLogger(folder, name="csv", version=""), TensorBoardLogger(folder, name="tensorboard", version="")]


def _wanted(early_stopping: int | None, ema: float) -> Iterator[Callback]:
    if early_stopping is not None:
        yield EarlyStopping("val_loss", patience=early_stopping)
    if ema:
        yield EMAWeightAveraging(decay=ema)


class _Steps(Callback):
    """Moves the caller's progress on by one with every training step."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.steps: Iterator[int] = iter(())
        self.done = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin where the training goes on."""
        self.done = trainer.global_step
        left = max(int(trainer.estimated_stepping_batches) - self.done, 0)
        self.steps = self.progress(range(left), total=left, label=f"training, {left} steps")
        next(self.steps, None)  # a generator counts an item when the one after it is asked for

    def on_train_batch_end(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        """One step further, if the batch was the last one of a step."""
        if trainer.global_step > self.done:
            self.done = trainer.global_step
            next(self.steps, None)


class _EpochLog(Callback):
    """One line for every tenth of the training."""

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say where the training stands."""
        epochs = trainer.max_epochs or 1
        done = trainer.current_epoch + 1
        if trainer.sanity_checking or (done % max(1, epochs // 10) and done != epochs):
            return
        loss, accuracy = (trainer.callback_metrics.get(key) for key in ("val_loss", "val_OverallAccuracy"))
        if loss is not None and accuracy is not None:
            logger.info("epoch %d of %d: val loss %.3f, val accuracy %.3f", done, epochs, loss, accuracy)


class _Cached:
    """Pooled features of a frozen backbone, computed once and standardised; the head is trained on them.

    Of several processes each computes its share of the training features, which all then hold.
    """

    def __init__(self, model: CityClassifier, data: Any, views: int, trainer: Trainer, progress: Progress) -> None:
        self.model, self.data = model, data
        if trainer.world_size > 1:  # Lightning itself would join the processes only when it trains
            trainer.strategy.setup_environment()
        self.share = {"num_replicas": trainer.world_size, "rank": trainer.global_rank}
        train, val = data.chip_ids("train"), self._own(data.chip_ids("val"))
        seen = [_features(model, data, self._own(train), axes, progress) for axes in FLIPS[:views]]
        self.seen = torch.cat([_gathered(features, len(train)) for features in seen])
        self.held = _features(model, data, val, (), progress)
        self.seen_labels = torch.from_numpy(data.labels(train)).repeat(len(seen))
        self.held_labels = torch.from_numpy(data.labels(val))
        self.mean, self.std = self.seen.mean(0), self.seen.std(0).clamp_min(1e-6)

    def loaders(self) -> dict[str, Any]:
        """Batches of standardised features for ``Trainer.fit``."""
        sampler = self.data.train_sampler(self.seen_labels.numpy())
        if self.share["num_replicas"] > 1:
            sampler = DistributedSamplerWrapper(sampler, shuffle=False, **self.share)
        seen = TensorDataset((self.seen - self.mean) / self.std, self.seen_labels)
        held = TensorDataset((self.held - self.mean) / self.std, self.held_labels)
        size = self.data.batch_size
        return {
            "train_dataloaders": DataLoader(seen, size, sampler=sampler, collate_fn=_as_batch),
            "val_dataloaders": DataLoader(held, size, collate_fn=_as_batch),
        }

    def _own(self, chip_ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """The share of this process; everything where there are fewer chips than processes."""
        number, rank = self.share["num_replicas"], self.share["rank"]
        return np.array_split(chip_ids, number)[rank] if len(chip_ids) >= number else chip_ids

    @torch.no_grad()
    def fold(self) -> None:
        """Move the standardisation into the trained head, which then takes features as they are."""
        head: Any = self.model.head
        head.weight /= self.std
        head.bias -= head.weight @ self.mean


@torch.inference_mode()
def _features(model: CityClassifier, data: Any, chip_ids: Any, axes: tuple[int, ...], progress: Progress) -> Tensor:
    """Pooled features (n, D) of chips mirrored along ``axes``, on the CPU."""
    model.eval()
    batches = data.loader(chip_ids)
    label = f"features of {len(chip_ids)} chips" + (f", mirrored {len(axes)}×" if axes else "")
    found = [
        model.embed(batch["image"].to(model.device).flip(axes)).cpu()
        for batch in progress(batches, total=len(batches), label=label)
    ]
    return torch.cat(found).clone()


def _gathered(features: Tensor, number: int) -> Tensor:
    """Features of so many chips, of which every process has computed its share."""
    if len(features) == number:
        return features
    parts: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(parts, features)
    return torch.cat(parts)


def _as_batch(rows: list[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    features, labels = zip(*rows, strict=True)
    return {"image": torch.stack(features), "label": torch.stack(labels)}
