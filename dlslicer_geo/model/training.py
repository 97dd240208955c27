"""A classifier and a data module in, the best epoch's checkpoint out."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import EarlyStopping, EMAWeightAveraging, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from dlslicer_geo.errors import ModelError
from dlslicer_geo.files import atomic
from dlslicer_geo.model import weights as weight_files
from dlslicer_geo.model.classifier import CityClassifier
from dlslicer_geo.model.hush import lightning_quiet
from dlslicer_geo.types import Progress, quiet

logger = logging.getLogger(__name__)

AVERAGING = ("current_model_state", "averaging_state")
"""What a checkpoint holds only for a training with a running mean to go on."""

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
    loggers: Sequence[Logger] = (),
    seed: int = 0,
    progress: Progress = quiet,
) -> CityClassifier:
    """Train, keep the epoch with the smallest validation loss, and write ``out/model.ckpt``.

    Checkpoints and logs lie under ``out/fit``; an interrupted training goes on from ``out/fit/last.ckpt``.

    Args:
        model: the classifier; its weights are replaced by the best epoch's.
        data: a ``ChipDataModule`` whose cities are the model's.
        max_epochs: epochs at most.
        out: run folder.
        views: with a frozen backbone, mirror images per training chip (1 to 4) whose features are computed once.
        early_stopping: stop after so many epochs without a smaller val_loss; None never.
        ema: validate and keep a running mean of the weights, of which a step leaves this share; 0 keeps the weights.
        loggers: Lightning loggers beside CSV and TensorBoard.
        seed: seeds everything.
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
    best = ModelCheckpoint(folder, filename="best", monitor="val_loss", save_last=True, enable_version_counter=False)
    callbacks = [best, _EpochLog(), _Steps(progress), *_wanted(early_stopping, ema)]
    own = [CSVLogger(folder, name="csv", version=""), TensorBoardLogger(folder, name="tensorboard", version="")]
    with lightning_quiet():
        trainer = Trainer(
            max_epochs=max_epochs, callbacks=callbacks, logger=[*own, *loggers], enable_model_summary=False,
            enable_progress_bar=False, log_every_n_steps=1,
            # a CPU repeats itself anyway
            deterministic="warn" if torch.accelerator.is_available() else None,
        )  # fmt: skip
        last = folder / "last.ckpt"
        cached = _Cached(model, data, views, progress) if model.frozen else None
        source = cached.loaders() if cached else {"datamodule": data}
        trainer.fit(model, **source, ckpt_path=last if last.is_file() else None, weights_only=True)
    if trainer.interrupted:
        raise KeyboardInterrupt
    stored = weight_files.read(Path(best.best_model_path))
    model.load_state_dict(stored["state_dict"])
    if cached:
        cached.fold()
    with atomic(Path(out) / "model.ckpt") as temporary:
        kept = {name: values for name, values in stored.items() if name not in AVERAGING}
        torch.save(kept | {"state_dict": model.state_dict()}, temporary)
    model.eval()
    return model


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

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin where the training goes on."""
        left = max(int(trainer.estimated_stepping_batches) - trainer.global_step, 0)
        self.steps = self.progress(range(left), total=left, label=f"training, {left} steps")
        next(self.steps, None)  # a generator counts an item when the one after it is asked for

    def on_train_batch_end(self, *args: Any, **kwargs: Any) -> None:
        """One step further."""
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
    """Pooled features of a frozen backbone, computed once and standardised; the head is trained on them."""

    def __init__(self, model: CityClassifier, data: Any, views: int, progress: Progress) -> None:
        self.model, self.data = model, data
        train, val = data.chip_ids("train"), data.chip_ids("val")
        seen = [_features(model, data, train, axes, progress) for axes in FLIPS[:views]]
        self.seen, self.held = torch.cat(seen), _features(model, data, val, (), progress)
        self.seen_labels = torch.from_numpy(data.labels(train)).repeat(len(seen))
        self.held_labels = torch.from_numpy(data.labels(val))
        self.mean, self.std = self.seen.mean(0), self.seen.std(0).clamp_min(1e-6)

    def loaders(self) -> dict[str, Any]:
        """Batches of standardised features for ``Trainer.fit``."""
        sampler = self.data.train_sampler(self.seen_labels.numpy())
        seen = TensorDataset((self.seen - self.mean) / self.std, self.seen_labels)
        held = TensorDataset((self.held - self.mean) / self.std, self.held_labels)
        size = self.data.batch_size
        return {
            "train_dataloaders": DataLoader(seen, size, sampler=sampler, collate_fn=_as_batch),
            "val_dataloaders": DataLoader(held, size, collate_fn=_as_batch),
        }

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


def _as_batch(rows: list[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    features, labels = zip(*rows, strict=True)
    return {"image": torch.stack(features), "label": torch.stack(labels)}
