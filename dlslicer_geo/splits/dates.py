"""Dates of any precision in, their side of a year shift out."""

from __future__ import annotations

import numpy as np
import pandas as pd

from dlslicer_geo.errors import SplitError
from dlslicer_geo.splits.ground import Integers

BEFORE, LATER, UNCLEAR, UNDATED = range(4)


def sides(acquired: pd.Series, test_from: str) -> Integers:
    """Tell for every date whether it lies before a day, or on it or later.

    ``2020`` stands for all of its days: it lies before 2021, is later than or on 2020, and is unclear against
    2020-06-30.

    Args:
        acquired: (n,) ISO 8601 years, months or days; null where unknown.
        test_from: ISO 8601 year, month or day; its first day counts.

    Returns:
        (n,) :data:`BEFORE`, :data:`LATER`, :data:`UNCLEAR` where the date is too coarse to say, or :data:`UNDATED`
        where there is none that can be read.

    Raises:
        SplitError: if ``test_from`` is no date.
    """
    border = _period(test_from)
    if border is None:
        raise SplitError(
            f"split.test_from is {test_from!r}, which is no day of the calendar: give one such as 2020-06-30"
        )
    code, dates = pd.factorize(acquired)
    side = np.array([_side(_period(date), border.start_time) for date in dates] + [UNDATED], np.int64)
    return side[code]  # -1, the last, is null


def _side(period: pd.Period | None, start: pd.Timestamp) -> int:
    if period is None:
        return UNDATED
    if period.start_time >= start:
        return LATER
    return BEFORE if period.end_time < start else UNCLEAR


def _period(date: object) -> pd.Period | None:
    """The year, month or day that a text names; the time of day does not count."""
    try:
        period = pd.Period(str(date)[:10])
    except ValueError:
        return None
    return period if isinstance(period, pd.Period) else None
