"""A job in, its parts on disk out: chips are read, asked about and written at the same time."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any, cast

import numpy as np
import torch
from lightning.pytorch import Callback, LightningDataModule, Trainer
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from dlslicer_geo.files import write_table
from dlslicer_geo.predict import trial
from dlslicer_geo.predict.parts import Job, begun, head, keep, missing
from dlslicer_geo.predict.reading import read_predictions
from dlslicer_geo.predict.rows import rows
from dlslicer_geo.predict.tiles import Tiles
from dlslicer_geo.types import Predictions

logger = logging.getLogger(__name__)

WAITING = 2
"""Parts that wait to be written at most."""

Said = dict[str, Tensor]


def run(job: Job, trainer: Mapping[str, Any] | None) -> Predictions:
    """Predict the parts that are missing, and read all of them.

    Args:
        job: what is to be predicted.
        trainer: keyword arguments of the ``Trainer`` that say where.
    """
    plan: deque[tuple[int, int]] = deque()
    with ExitStack() as while_running, ThreadPoolExecutor(1, "writer") as writer:
        source = _Source(job, plan, while_running)
        job.model.stream(source, dense=job.dense, callbacks=[_Sink(job, plan, writer)], trainer=trainer)
    found = read_predictions(job.folder)
    if source.alone:
        agreement = trial.compare(source.alone, found)
        logger.info("dense and chip by chip: the same city for %(same_city)s of %(chips)d chips", agreement)
        keep(job, source.manifest | {"dense": agreement})
    return found


class _Source(LightningDataModule):
    """The batches of the missing parts of this rank, one part after the other.

    Args:
        job: what is to be predicted.
        plan: is told which part is how many batches long.
        while_running: holds what makes the model faster, until nothing is left to predict.
    """

    def __init__(self, job: Job, plan: deque[tuple[int, int]], while_running: ExitStack) -> None:
        super().__init__()
        self.job, self.plan, self.while_running = job, plan, while_running
        self.manifest: dict[str, Any] = {}
        self.alone: dict[str, NDArray[Any]] = {}

    def predict_dataloader(self) -> Iterator[dict[str, Any]]:
        """Agree with the other ranks on what is to be done; the model is on its device already."""
        job, trainer = self.job, cast(Trainer, self.trainer)
        agreed = (self._begin(), missing(job)) if trainer.is_global_zero else ({}, [])
        self.manifest, left = trainer.strategy.broadcast(agreed)
        mine = left[trainer.global_rank :: trainer.world_size]
        if not mine:
            return iter(())
        size, bf16 = self.manifest["batch_size"], self.manifest["precision"] == "bf16"
        self.while_running.enter_context(job.model.looking(bf16=bf16, compiled=size if job.compile else 0))
        parts = [job.parts[number] for number in mine]
        lengths, loader = self._tiles(parts) if job.dense else self._chips(parts, size)
        self.plan.extend(zip(mine, lengths, strict=True))
        label = f"predicting {sum(map(len, parts))} chips"
        return job.progress(loader, total=sum(lengths), label=label)

    def _begin(self) -> dict[str, Any]:
        """The manifest, made now if there is none of this job."""
        job = self.job
        manifest = begun(job)
        if not manifest:
            manifest = head(job) | trial.settle(job)
            keep(job, manifest)
        if job.dense and "dense" not in manifest:
            with job.model.looking(bf16=manifest["precision"] == "bf16"):
                self.alone = trial.ask(job, manifest["batch_size"])
        return manifest

    def _chips(self, parts: Sequence[NDArray[np.int64]], size: int) -> tuple[list[int], Any]:
        batches = [part[at : at + size] for part in parts for at in range(0, len(part), size)]
        return [-(-len(part) // size) for part in parts], self.job.data.loader(np.concatenate(parts), batches=batches)

    def _tiles(self, parts: Sequence[NDArray[np.int64]]) -> tuple[list[int], Any]:
        tiles = Tiles(self.job.model, self.job.data, np.concatenate(parts))
        ends = np.cumsum([len(part) for part in parts])
        return tiles.lengths(ends), DataLoader(tiles, batch_size=None, num_workers=self.job.data.workers)


class _Sink(Callback):
    """Gathers what is said of the chips of a part and lets a thread write it.

    Args:
        job: what is predicted.
        plan: says which part is how many batches long.
        writer: one thread.
    """

    def __init__(self, job: Job, plan: deque[tuple[int, int]], writer: ThreadPoolExecutor) -> None:
        self.job, self.plan, self.writer = job, plan, writer
        self.said: list[Said] = []
        self.batches = 0
        self.waiting: deque[Future[None]] = deque()

    def on_predict_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Take one batch; after the last one of a part, wait for room in the queue and put the part there."""
        if outputs:  # a dense model answers after the last tile of a scene
            wanted = outputs if self.job.embedding else {k: v for k, v in outputs.items() if k != "embedding"}
            self.said.append({name: values.to("cpu", non_blocking=True) for name, values in wanted.items()})
        self.batches += 1
        number, length = self.plan[0]
        if self.batches < length:
            return
        self.plan.popleft()
        while len(self.waiting) >= WAITING:
            self.waiting.popleft().result()
        self.waiting.append(self.writer.submit(_write, self.job, number, self.said, pl_module.device))
        self.said, self.batches = [], 0

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Wait until all is written, by this rank and by the others."""
        while self.waiting:
            self.waiting.popleft().result()
        trainer.strategy.barrier("predicted")

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Begin no other part."""
        self.writer.shutdown(wait=False, cancel_futures=True)


def _write(job: Job, number: int, said: Sequence[Said], device: torch.device) -> None:
    """One part, in the writer's thread, which alone waits for the device."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    joined = {name: torch.cat([part[name] for part in said]).numpy() for name in said[0]}
    table = rows(job.model, job.data.chips, joined, embedding=job.embedding)
    write_table(table, job.path(number), dict(job.provenance) | {"predictions_key": job.key})
