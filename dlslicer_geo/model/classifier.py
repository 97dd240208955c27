"""City codes and the name of a timm network in, a TorchGeo classification task out."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional

from dlslicer_geo.errors import ModelError
from dlslicer_geo.model import running
from dlslicer_geo.model import weights as weight_files
from dlslicer_geo.model.dense import DenseClassifier
from dlslicer_geo.model.unknown import unknown_scores
from dlslicer_geo.types import DETECTORS

try:  # TorchGeo 0.10 renamed the task; 0.8 is what Python 3.11 gets
    from torchgeo.tasks import Classification as ClassificationTask
except ImportError:
    from torchgeo.trainers import ClassificationTask

CALIBRATION = ("temperature", "thresholds", "bank")
"""Buffers that are found out after training."""

MAX_INPUT = 16_384
"""Pixels along an edge; no network sees more."""

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Mean and standard deviation for networks whose own are not published."""


class CityClassifier(ClassificationTask):
    """Which city a chip comes from: a TorchGeo classification task over any timm network.

    The classifier takes chips as they are read (uint8, any size) and brings them to the network's size and scale
    itself, so that a checkpoint says all that is needed to use it.

    Args:
        model: name of a timm network.
        cities: city codes in the order of the outputs.
        weights: True (timm's, from the hub), ``packaged`` (from an installed package), the name of TorchGeo weights,
            a file (``.safetensors``, or ``.pt``/``.pth``/``.ckpt`` loaded without running code), False for random.
        freeze_backbone: train only the head; ``fit`` then runs the network once per chip and view.
        input_size: edge in pixels of what the network sees.
        lr: learning rate.
        weight_decay: weight decay.
        optimizer: ``adamw`` or ``adam``.
        schedule: ``cosine`` over all epochs, ``plateau`` (TorchGeo's), or ``none``.
        patience: epochs without a better val_loss before ``plateau`` lowers the rate.
        label_smoothing: share of the target that is spread over all cities while training, 0 to 1.
        chip: size and stride in pixels and edge in metres of the chips the model is trained on.

    Raises:
        ModelError: if the network or the weights cannot be had.
    """

    model: Any
    mean: Tensor
    std: Tensor
    temperature: Tensor
    thresholds: Tensor
    bank: Tensor
    quick: running.Maps | None = None

    def __init__(
        self,
        model: str = "resnet50",
        *,
        cities: Sequence[str],
        weights: bool | str = False,
        freeze_backbone: bool = False,
        input_size: int = 224,
        lr: float = 1e-3,
        weight_decay: float = 0.0,
        optimizer: Literal["adamw", "adam"] = "adamw",
        schedule: Literal["cosine", "plateau", "none"] = "cosine",
        patience: int = 10,
        label_smoothing: float = 0.0,
        chip: Mapping[str, float | None] | None = None,
    ) -> None:
        cities, chip = list(cities), dict(chip or {})
        super().__init__(
            model=model,
            weights=weights,
            num_classes=len(cities),
            lr=lr,
            patience=patience,
            freeze_backbone=freeze_backbone,
        )
        mean, std = _normalisation(model)
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)
        for name in CALIBRATION:  # found out after training; they stay in the checkpoint
            self.register_buffer(name, None)
        self.forget()

    @property
    def cities(self) -> tuple[str, ...]:
        """City codes in the order of the outputs."""
        return tuple(self.hparams["cities"])

    @property
    def frozen(self) -> bool:
        """Whether only the head is trained."""
        return bool(self.hparams["freeze_backbone"])

    @property
    def threshold(self) -> float | None:
        """Of the model's detector: chips above it are of an unknown city; None for a model without one."""
        name = self.hparams["detector"]
        return float(self.thresholds[DETECTORS.index(name)]) if name else None

    def forget(self) -> None:
        """Take back what was found out after training: nothing is calibrated, nothing is unknown."""
        device = self.mean.device
        self.temperature = torch.ones((), device=device)
        self.thresholds = torch.full((len(DETECTORS),), torch.inf, device=device)
        self.bank = torch.zeros(0, 0, device=device)
        self.hparams["detector"] = ""

    def configure_losses(self) -> None:
        """Cross-entropy, with the label smoothing that was asked for."""
        self.criterion = nn.CrossEntropyLoss(label_smoothing=self.hparams["label_smoothing"])

    def configure_models(self) -> None:
        """Build the network, load its weights, freeze what is not to be trained."""
        name = self.hparams["model"]
        if not timm.is_model(name):
            raise ModelError(f"model.name is {name!r}: give one of timm's names, for instance resnet50")
        net = weight_files.network(name, self.weights, self.hparams["num_classes"])
        self.model = net.to(memory_format=torch.channels_last)  # on a CPU twice as fast, on a GPU no slower
        if self.frozen:
            self.model.requires_grad_(False)
            self.head.requires_grad_(True)
        if self.frozen or self.weights:
            for values in self.head.parameters():
                nn.init.zeros_(values)  # every city equally likely; few steps would not forget a random start

    @property
    def head(self) -> nn.Module:
        """The last linear layer."""
        return self.model.get_classifier()  # type: ignore[no-any-return]

    def train(self, mode: bool = True) -> CityClassifier:
        """Switch to training; a frozen backbone keeps its batch-norm statistics."""
        super().train(mode)
        if mode and self.frozen:
            self.model.eval()
        return self

    def prepare(self, images: Tensor) -> Tensor:
        """Chips as the network wants them.

        Args:
            images: (B, 3, H, W), 0 to 255, uint8 or float.

        Returns:
            float (B, 3, input_size, input_size), normalised; antialiased bilinear where the size differs.
        """
        size = (int(self.hparams["input_size"]),) * 2
        if images.shape[-2:] != size:
            pixels = images.to(self.mean.dtype)
            images = functional.interpolate(pixels, size, mode="bilinear", antialias=True)
        return self.normalise(images)

    def normalise(self, images: Tensor) -> Tensor:
        """Pixels (B, 3, H, W) 0 to 255 on the scale of the network, float and channels-last."""
        scaled = images.to(self.mean.dtype) / 255
        return ((scaled - self.mean) / self.std).contiguous(memory_format=torch.channels_last)

    def maps(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """What the last stage finds in normalised pixels, and what the one before it does.

        Returns:
            features as the network leaves them before its head, (B, D, h, w) for a convolutional one; the same of the
            stage before the last (``layer3`` of a ResNet), which are the last ones again for a network that does not
            show its stages.
        """
        if not hasattr(self.model, "forward_intermediates"):
            last = self.model.forward_features(pixels)
            return last, last
        last, stages = self.model.forward_intermediates(pixels, indices=2)
        return last, stages[0]

    def embed(self, images: Tensor) -> Tensor:
        """Pooled features (B, D) of chips (B, 3, H, W): what the head sees."""
        features = self.model.forward_features(self.prepare(images))
        return self.model.forward_head(features, pre_logits=True)  # type: ignore[no-any-return]

    def look(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """What :meth:`embed` finds in chips (B, 3, H, W), and what the stage before the last does.

        Returns:
            pooled features (B, D); mean features (B, D') of that stage, which are the pooled ones again for a network
            that does not show its stages.
        """
        last, before = (self.quick or self.maps)(self.prepare(images))
        pooled = self.model.forward_head(last, pre_logits=True)
        shown = hasattr(self.model, "forward_intermediates")
        return pooled, before.mean(dim=(2, 3)) if shown else pooled

    def forward(self, chips: Tensor) -> Tensor:
        """Logits (B, cities) of chips (B, 3, H, W) 0 to 255, or of their pooled features (B, D)."""
        return self.head(chips if chips.ndim == 2 else self.embed(chips))  # type: ignore[no-any-return]

    def answer(self, embedding: Tensor, before: Tensor) -> dict[str, Tensor]:
        """What follows from the features that :meth:`look` finds.

        Returns:
            ``probabilities``, calibrated, (B, cities); ``embedding`` (B, D); the detectors' scores (B,); all float32.
        """
        logits = self.head(embedding).float()
        return {
            "probabilities": (logits / self.temperature).softmax(dim=1),
            "embedding": embedding.float(),
            **unknown_scores(logits, before, self.bank),
        }

    def log(self, name: str, value: Any, **options: Any) -> None:
        """Note a figure as Lightning does; val_loss is that of all processes, which so agree on the best epoch."""
        super().log(name, value, **({"sync_dist": name == "val_loss"} | options))

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Tensor]:
        """What :meth:`answer` gives for the chips of a batch, with their ``chip_id`` and ``label``, int64 (B,)."""
        return {name: batch[name] for name in ("chip_id", "label")} | self.answer(*self.look(batch["image"]))

    def infer(self, loader: Any, *, trainer: Mapping[str, Any] | None = None) -> Iterator[dict[str, Tensor]]:
        """Run :meth:`predict_step` over a loader on one device, or where ``trainer`` says; tensors end on the CPU."""
        return running.infer(self, loader, trainer=trainer)

    def stream(self, data: Any, *, dense: bool = False, **options: Any) -> None:
        """Run :func:`~dlslicer_geo.model.running.stream` with this model, or with its dense form."""
        running.stream(DenseClassifier(self) if dense else self, data, **options)

    @property
    def computes_bf16(self) -> bool:
        """Whether the device that the model is on has bfloat16 in hardware."""
        return running.computes_bf16(self.device)

    @contextmanager
    def looking(self, *, bf16: bool = False, compiled: int = 0) -> Iterator[None]:
        """Look faster while the block lasts, on the device that the model is on.

        Args:
            bf16: let the network compute in bfloat16; the head and all that follows stay float32.
            compiled: chips per batch to compile the network for; 0 leaves it as it is.

        Raises:
            ModelError: if the network cannot be compiled.
        """
        before = self.quick
        self.quick = running.quick(self, bf16=bf16, compiled=compiled) if bf16 or compiled else None
        try:
            yield
        finally:
            self.quick = before

    def configure_optimizers(self) -> Any:
        """Optimizer and learning-rate schedule of the trainable parameters."""
        wanted = [p for p in self.parameters() if p.requires_grad]
        kind = torch.optim.Adam if self.hparams["optimizer"] == "adam" else torch.optim.AdamW
        optimizer = kind(wanted, lr=self.hparams["lr"], weight_decay=self.hparams["weight_decay"])
        if self.hparams["schedule"] == "none":
            return optimizer
        if self.hparams["schedule"] == "cosine":
            epochs = self.trainer.max_epochs or 1
            return [optimizer], [torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=epochs)]
        plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=self.hparams["patience"])
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": plateau, "monitor": self.monitor}}


def load(path: str | Path) -> CityClassifier:
    """Read a checkpoint written by :func:`fit`, without running any code that is in it.

    Args:
        path: a ``.ckpt`` file, or a run folder that holds ``model.ckpt``.

    Raises:
        ModelError: if the file is absent, is no checkpoint of this package, or holds Python code.
    """
    file = Path(path) / "model.ckpt" if Path(path).is_dir() else Path(path)
    stored = weight_files.read(file)
    hyper, state = (stored.get(k) if isinstance(stored, dict) else None for k in ("hyper_parameters", "state_dict"))
    if not isinstance(hyper, dict) or not isinstance(state, dict) or "cities" not in hyper:
        raise ModelError(f"{file} is no checkpoint of dlslicer_geo: give a model.ckpt that `fit` wrote")
    _check(file, hyper, state)
    own = set(inspect.signature(CityClassifier).parameters) - {"weights"}  # the rest are TorchGeo's own
    known = {k: v for k, v in hyper.items() if k in own}
    model = CityClassifier(**known, weights=False)
    model.hparams["detector"] = hyper.get("detector", "")
    try:
        model.bank = torch.empty_like(state["bank"])  # its size is the training's, not the network's
        model.load_state_dict(state)
    except (RuntimeError, KeyError) as error:
        raise ModelError(
            f"{file} does not fit {known['model']} ({' '.join(str(error).split())[:200]}): train again"
        ) from None
    model.eval()
    return model


def _check(file: Path, hyper: dict[str, Any], state: dict[str, Any]) -> None:
    """Refuse what :func:`fit` does not write, and what was written before models were calibrated."""
    cities, size = hyper["cities"], hyper.get("input_size")
    good = {
        "cities": isinstance(cities, list) and len(set(map(str, cities))) == len(cities) > 1,
        "model": isinstance(hyper.get("model"), str),
        "input_size": isinstance(size, int) and 1 <= size <= MAX_INPUT,
        "chip": isinstance(hyper.get("chip"), dict | None),
        "detector": hyper.get("detector", "") in ("", *DETECTORS),
    }
    for name in (name for name, fits in good.items() if not fits):
        said = repr(hyper.get(name))[:80]
        raise ModelError(f"{file} says that {name} is {said}, which `fit` does not write: train again")
    lacking = [name for name in CALIBRATION if not isinstance(state.get(name), Tensor)]
    if lacking:
        raise ModelError(f"{file} has no {', no '.join(lacking)}: it was not calibrated by this version, train again")
    temperature, thresholds, bank = (state[name] for name in CALIBRATION)
    if not (temperature > 0).all() or thresholds.isnan().any() or not bank.isfinite().all():
        raise ModelError(f"{file} holds a temperature, thresholds or a bank that are no such numbers: train again")


def _normalisation(name: str) -> tuple[Sequence[float], Sequence[float]]:
    published = timm.get_pretrained_cfg(name)
    return (published.mean, published.std) if published is not None else IMAGENET
