"""Nothing in, a context out in which Lightning says only what a user can act on."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def lightning_quiet() -> Iterator[None]:
    """Keep Lightning's banners out of the log, and its advice that does not apply here out of the warnings."""
    loud = logging.getLogger("lightning.pytorch"), logging.getLogger("lightning.fabric")
    levels = [log.level for log in loud]
    for log in loud:
        log.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            # the number of workers is the user's choice, a small data set is no mistake
            warnings.filterwarnings("ignore", message=".*does not have many workers.*")
            warnings.filterwarnings("ignore", message=".*number of training batches.*")
            warnings.filterwarnings("ignore", message=".*(C|c)heckpoint directory .* exists and is not empty.*")
            warnings.filterwarnings("ignore", message=".*Experiment logs directory .* exists and is not empty.*")
            warnings.filterwarnings("ignore", message=".*module\\(s\\) in eval mode.*")  # a frozen backbone
            # raised inside Lightning and torch themselves
            warnings.filterwarnings("ignore", category=DeprecationWarning)
            warnings.filterwarnings("ignore", category=FutureWarning)
            yield
    finally:
        for log, level in zip(loud, levels, strict=True):
            log.setLevel(level)
