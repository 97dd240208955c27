"""A classifier and batches in, what it says of them out: wherever Lightning places it, in float32 or bfloat16."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from lightning.fabric import Fabric
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from torch import Tensor

from dlslicer_geo.errors import ModelError
from dlslicer_geo.model.hush import lightning_quiet

ONE: Mapping[str, Any] = {"accelerator": "auto", "devices": 1}
"""Where a model works when nothing else is said: one device, chosen by Lightning."""

PLAIN: Mapping[str, Any] = {
    "logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False,
    "use_distributed_sampler": False,  # whoever gives the batches says which rank has which
}  # fmt: skip
"""What prediction does not need of a Trainer."""

Maps = Callable[[Tensor], tuple[Tensor, Tensor]]


def stream(
    module: LightningModule,
    data: LightningDataModule,
    *,
    callbacks: Iterable[Callback] = (),
    trainer: Mapping[str, Any] | None = None,
) -> None:
    """Run ``predict_step`` over ``data.predict_dataloader()``; what it returns goes to the callbacks and is not kept.

    Args:
        module: what predicts; it is on the CPU again afterwards.
        data: gives the batches of this rank.
        callbacks: take the results.
        trainer: keyword arguments of the ``Trainer`` that say where the work is done.

    Raises:
        KeyboardInterrupt: after Ctrl-C, which Lightning turns into the end of the process.
    """
    with lightning_quiet():
        runner = Trainer(**PLAIN, callbacks=list(callbacks), **(trainer or ONE))
        with interruptible(runner):
            runner.predict(module, datamodule=data, return_predictions=False)


@contextmanager
def interruptible(runner: Trainer) -> Iterator[None]:
    """Let Ctrl-C be a ``KeyboardInterrupt``, which Lightning turns into the end of the process."""
    asked = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit:
        if not runner.interrupted:
            raise
        raise KeyboardInterrupt from None
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, asked)  # Lightning ignores it from the first Ctrl-C on


def infer(
    module: LightningModule, loader: Any, *, trainer: Mapping[str, Any] | None = None
) -> Iterator[dict[str, Tensor]]:
    """Run ``predict_step`` over a loader and give the results on the CPU; for some thousand chips, not for millions.

    Args:
        module: what predicts; it is on the CPU again afterwards.
        loader: batches.
        trainer: keyword arguments of the ``Trainer`` that say where the work is done.
    """
    with lightning_quiet():
        runner = Trainer(**PLAIN, **(trainer or ONE))
        with interruptible(runner):
            batches: list[Any] = runner.predict(module, loader) or []
    for batch in batches:
        yield {name: values.cpu() for name, values in batch.items()}


@contextmanager
def placed(model: Any, accelerator: str = "auto") -> Iterator[torch.device]:
    """Move a model to the device that Lightning would choose for this process, and back when the block ends.

    Args:
        model: any module.
        accelerator: Lightning's name for the kind of device.
    """
    before, device = model.device, Fabric(accelerator=accelerator, devices=1).device
    if device.index is not None:  # beside other processes of this machine each takes its own
        rank = int(os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID", "0")))
        device = torch.device(device.type, rank % torch.accelerator.device_count())
    model.to(device)
    try:
        yield device
    finally:
        model.to(before)


def computes_bf16(device: torch.device) -> bool:
    """Whether a device has bfloat16 in hardware; a CPU is never said to, because few are faster in it."""
    known = getattr(torch.get_device_module(device), "is_bf16_supported", None)
    return device.type != "cpu" and known is not None and bool(known())


def quick(model: Any, *, bf16: bool, compiled: int) -> Maps:
    """The network as a function of normalised pixels, faster than it comes.

    Args:
        model: a ``CityClassifier`` where it is to work.
        bf16: compute in bfloat16; what comes out is float32.
        compiled: chips per batch to compile the network for, 0 to leave it as it is.

    Returns:
        what ``model.maps`` is, for batches of at most ``compiled``.
    """
    maps: Maps = torch.compile(model.maps, dynamic=False) if compiled else model.maps

    def run(pixels: Tensor) -> tuple[Tensor, Tensor]:
        whole = _filled(pixels, compiled) if compiled else pixels
        with torch.autocast(pixels.device.type, torch.bfloat16, enabled=bf16):
            last, before = maps(whole)
        return last[: len(pixels)].float(), before[: len(pixels)].float()

    if compiled:
        _warm(run, model, compiled)
    return run


def _warm(run: Maps, model: Any, batch: int) -> None:
    """Compile now: a compiler that is missing is found out before anything is written."""
    size = int(model.hparams["input_size"])
    pixels = torch.zeros(batch, 3, size, size, device=model.device).contiguous(memory_format=torch.channels_last)
    try:
        with torch.inference_mode():
            run(pixels)
    except (RuntimeError, OSError) as error:  # every error of torch's compilers is a RuntimeError
        said = " ".join(str(error).split())[:200]
        raise ModelError(
            f"{model.hparams['model']} cannot be compiled here ({said}): predict with `--predict.compile false`"
        ) from error


def _filled(pixels: Tensor, batch: int) -> Tensor:
    """A batch brought to its full number by repeating its last chip: another shape would be compiled anew."""
    lacking = batch - len(pixels)
    return torch.cat([pixels, pixels[-1:].expand(lacking, -1, -1, -1)]) if lacking else pixels
