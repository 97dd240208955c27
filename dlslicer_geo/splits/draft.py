"""Where every chip goes and why, before it is proven: the value that the rules hand on."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlslicer_geo.splits.ground import Integers
from dlslicer_geo.types import SPLITS

UNUSED = len(SPLITS)
"""Code of a chip in no split; below it stand the indices into ``SPLITS``."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Draft:
    """Where every chip goes, and why.

    Args:
        code: (n,) index into ``SPLITS``, or :data:`UNUSED`.
        unit: (n,) number of what stayed together, -1 for a chip that is part of nothing.
        fold: (n,) fold of the unit, -1 where there is none; None without folds.
        dropped: chips that are left out, by reason.
        joined: units that others were merged into.
        wanted: splits of which every city needs chips.
        facts: what the certificate says beside.
    """

    code: Integers
    unit: Integers
    fold: Integers | None = None
    dropped: dict[str, int] = field(default_factory=dict)
    joined: int = 0
    wanted: tuple[str, ...] = SPLITS
    facts: dict[str, Any] = field(default_factory=dict)


def drop(draft: Draft, chips: NDArray[np.bool_], reason: str) -> Draft:
    """Leave chips out; those that are in no split already keep their first reason."""
    out = chips & (draft.code != UNUSED)
    number = int(out.sum())
    if not number:
        return draft
    dropped = draft.dropped | {reason: draft.dropped.get(reason, 0) + number}
    return replace(draft, code=np.where(out, UNUSED, draft.code), dropped=dropped)
