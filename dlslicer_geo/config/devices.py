"""Where work is to be done in; nothing, or one sentence about what this machine has not, out."""

from __future__ import annotations

import re

from dlslicer_geo.errors import ConfigError
from dlslicer_geo.types import Compute

SCHEDULER = re.compile(r"(?:(?:tcp|tls|ucx|ws|wss)://)?[^/\s]+:\d{1,5}")
"""Addresses of Dask schedulers, as they print them."""


def check_compute(compute: Compute) -> None:
    """Find out before any work is done that a device, a strategy or a scheduler cannot be had.

    The libraries that know are asked only where something else than the default is wanted.

    Raises:
        ConfigError: naming the key, its value and what there is.
    """
    if compute.scheduler is not None and not SCHEDULER.fullmatch(compute.scheduler):
        raise ConfigError(
            f"compute.scheduler is {compute.scheduler!r}: give the address that `dask scheduler` prints, such as "
            "tcp://host:8786"
        )
    if compute.accelerator not in ("auto", "cpu"):
        _check_accelerator(compute.accelerator)
    if compute.strategy not in ("auto", "ddp"):
        _check_strategy(compute.strategy)


def _check_accelerator(name: str) -> None:
    import torch
    from lightning.pytorch.accelerators import AcceleratorRegistry

    kinds = set(AcceleratorRegistry.available_accelerators())
    there = sorted(kind for kind in kinds if AcceleratorRegistry[kind]["accelerator"].is_available())
    if torch.accelerator.is_available():
        there.append("gpu")
    if name not in there:
        lacks = "is not on this machine" if name in {*kinds, "gpu"} else "is no kind of device"
        raise ConfigError(f"compute.accelerator is {name}, which {lacks}: give auto, {' or '.join(there)}")


def _check_strategy(name: str) -> None:
    from lightning.pytorch.strategies import StrategyRegistry

    kinds = StrategyRegistry.available_strategies()
    known = [kind for kind in kinds if re.fullmatch(r"ddp(_find_unused_parameters_\w+)?", kind)]
    if name not in known:
        raise ConfigError(
            f"compute.strategy is {name}, and a network is kept whole on each device of processes that a launcher "
            f"starts: give auto, or one of {', '.join(known)}"
        )
