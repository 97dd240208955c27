"""The launcher's environment in; which process of how many this is, and what they do together, out.

One process works on one device. Several are started by ``torchrun`` or by SLURM's ``srun``, one for each device, and
all of them run the same command; the first one has rank 0.
"""

from __future__ import annotations

import atexit
import logging
import os
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from functools import cache
from typing import Any, TypeVar

from dlslicer_geo.errors import ConfigError, DlslicerError
from dlslicer_geo.types import Compute

T = TypeVar("T")

logger = logging.getLogger(__name__)

PATIENCE = timedelta(days=14)
"""How long processes wait for the first one, which may scan for hours; one that ends is noticed at once."""

MEETING = timedelta(minutes=10)
"""How long processes wait until all have been started."""

LISTEN_S = 10.0
"""Seconds for which a process that is not the first waits before it says what went wrong."""

INTERACTIVE = ("bash", "interactive")
"""Names of SLURM jobs in which somebody types: Lightning takes these for one process."""


def rank_and_world() -> tuple[int, int]:
    """The number of this process from 0, and how many there are; 0 and 1 without a launcher."""
    rank, world, _ = _launched()
    return rank, world


def trainer_options(compute: Compute) -> dict[str, Any]:
    """Keyword arguments of Lightning's ``Trainer`` that say where the work of all processes is done."""
    _, world, nodes = _launched()
    if world == 1:
        _say_what_is_idle(compute.accelerator)
        return alone(compute)
    strategy = "ddp" if compute.strategy == "auto" else compute.strategy
    options = {"devices": world // nodes, "num_nodes": nodes, "strategy": strategy}
    return {"accelerator": compute.accelerator, **options}


def alone(compute: Compute) -> dict[str, Any]:
    """The same for work that one process does while the others wait."""
    return {"accelerator": compute.accelerator, "devices": 1}


def started(compute: Compute) -> None:
    """Join the other processes; nothing to do where there are none, or where it was done before."""
    if rank_and_world()[1] == 1:
        return
    import torch
    from torch import distributed

    if distributed.is_initialized():
        return
    place = _environment()
    os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"] = place.main_address, str(place.main_port)
    options: dict[str, Any] = {"backend": "gloo"}
    device = None if compute.accelerator == "cpu" else torch.accelerator.current_accelerator(check_available=True)
    if device is not None:
        own = distributed.get_default_backend_for_device(device)
        at = torch.device(device.type, place.local_rank() % torch.accelerator.device_count())
        torch.accelerator.set_device_index(at.index)
        if own != "gloo":  # which stays for what the processes tell each other
            options = {"backend": f"cpu:gloo,{device.type}:{own}", "device_id": at}
    rank, world = place.global_rank(), place.world_size()
    distributed.init_process_group(store=_met(rank, world), rank=rank, world_size=world, timeout=PATIENCE, **options)
    atexit.register(_leave)


def first(work: Callable[[], T]) -> T:
    """Have the first process do something while the others wait; all of them get what it gives.

    Args:
        work: does it; what it gives can be pickled.

    Raises:
        DlslicerError: in the first process whatever the work raises, whereupon the others end without a word.
    """
    rank, world = rank_and_world()
    if world == 1:
        return work()
    if rank:
        done, value = _told(None)
        if not done:
            _outlive_the_first()
            raise SystemExit(2)
        return value  # type: ignore[no-any-return]
    try:
        value = work()
    except BaseException:
        _told((False, None))
        raise
    _told((True, value))
    return value


def let_the_first_speak() -> None:
    """Before a process says what went wrong: what is wrong for one is often wrong for all.

    Launchers end all processes as soon as one has ended, so whoever is still there after a while knows it alone.
    """
    with suppress(ConfigError):  # of an environment that does not say which process this is, what is wrong is told
        rank, _ = rank_and_world()
        time.sleep(LISTEN_S + rank / 10 if rank else 0)


def wait() -> None:
    """Go on when all processes have come here."""
    if rank_and_world()[1] > 1:
        import torch

        _together(lambda: torch.distributed.all_reduce(torch.zeros(1)))


def _told(value: Any) -> Any:
    """What the first process says to all."""
    import torch

    said = [value]
    _together(lambda: torch.distributed.broadcast_object_list(said, src=0, device=torch.device("cpu")))
    return said[0]


def _outlive_the_first() -> None:
    """Wait until the first process has ended: were this one sooner, launchers would cut its sentence off."""
    with suppress(DlslicerError):
        _told(None)


def _together(work: Callable[[], Any]) -> None:
    try:
        work()
    except RuntimeError:  # a connection that was closed
        rank, world = rank_and_world()
        raise DlslicerError(
            f"process {rank} of {world} has lost another one, which says why: start all of them again, what is "
            "finished stays"
        ) from None


def _met(rank: int, world: int) -> Any:
    """Where the processes find each other, once all are there."""
    from torch.distributed.rendezvous import rendezvous

    try:
        store, _, _ = next(rendezvous("env://", rank=rank, world_size=world, timeout=MEETING))
    except (RuntimeError, ValueError) as error:
        at = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        raise ConfigError(
            f"process {rank} of {world} found no other at {at} ({str(error).splitlines()[0][:120]}): start all of "
            "them with one launcher, whose first machine the others can reach"
        ) from None
    store.set_timeout(PATIENCE)
    return store


def _leave() -> None:
    from torch import distributed

    if distributed.is_initialized():
        distributed.destroy_process_group()


def _launched() -> tuple[int, int, int]:
    """Rank, world and machines, as the launcher says; Lightning, which looks at the same, is not needed for it."""
    said = os.environ
    try:
        if "TORCHELASTIC_RUN_ID" in said:
            world = int(said["WORLD_SIZE"])
            return int(said["RANK"]), world, world // int(said["LOCAL_WORLD_SIZE"])
        if "SLURM_STEP_ID" in said and "SLURM_NTASKS" in said and said.get("SLURM_JOB_NAME") not in INTERACTIVE:
            return int(said["SLURM_PROCID"]), int(said["SLURM_NTASKS"]), int(said.get("SLURM_NNODES", 1))
    except (KeyError, ValueError) as error:
        raise ConfigError(
            f"of several processes one is not told which it is ({error}): start with torchrun or srun, or unset "
            "TORCHELASTIC_RUN_ID and SLURM_STEP_ID"
        ) from None
    return 0, 1, 1


def _environment() -> Any:
    from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
    from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment

    return TorchElasticEnvironment() if TorchElasticEnvironment.detect() else SLURMEnvironment()


@cache
def _say_what_is_idle(accelerator: str) -> None:
    import torch

    number = 1 if accelerator == "cpu" else torch.accelerator.device_count()
    if number > 1:
        logger.info(
            "one of %d devices is used: torchrun --nproc-per-node %d -m dlslicer_geo ... uses all", number, number
        )
