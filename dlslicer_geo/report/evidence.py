"""What a run has to show for itself, put together; no input, no output."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dlslicer_geo.errors import LayerError
from dlslicer_geo.types import Predictions, Report

if TYPE_CHECKING:
    from geopandas import GeoDataFrame


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Evidence:
    """Everything a page about a run may say.

    Args:
        report: metrics and confusion.
        chips: chip table with ``chip_id``, ``city``, ``split``, ``approximate`` and outlines in EPSG:4326.
        found: predictions of the chips that were scored, and perhaps of others.
        certificate: what the split room said of the split.
        provenance: names and values of where the numbers come from.
        names: city names by code; may lack some.
        leave_city_out: how well chips of a city that was left out of training are told to be unknown.
        ablation: what the same recipe scores under splits that leak more and less.
        saliency_check: how far the maps of each saliency method can be trusted.
    """

    report: Report
    chips: GeoDataFrame
    found: Predictions
    certificate: Mapping[str, Any]
    provenance: Mapping[str, str] = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)
    leave_city_out: Mapping[str, Any] | None = None
    ablation: Mapping[str, Any] | None = None
    saliency_check: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        """Check that the parts belong together.

        Raises:
            LayerError: if nothing was scored, or a predicted chip is not in the chip table.
        """
        lacking = [name for name in ("n", "accuracy") if self.metrics.get(name) is None]
        if lacking:
            raise LayerError(f"the report has no {' and no '.join(lacking)}: score the predictions again")
        lost = ~np.isin(self.found.chip_id, self.chips["chip_id"].to_numpy())
        if lost.any():
            raise LayerError(
                f"{int(lost.sum())} of {len(lost)} predicted chips are not in the chip table: "
                "give the table that the predictions were made with"
            )

    @property
    def metrics(self) -> Mapping[str, Any]:
        """Numbers by name."""
        return self.report.metrics

    @property
    def proven(self) -> bool | None:
        """Whether the splits are proven disjoint; None where the certificate does not say."""
        stated = self.certificate.get("proven")
        return None if stated is None else bool(stated)

    @property
    def order(self) -> tuple[str, ...]:
        """City codes, alike ones side by side where the report knows which are alike."""
        return order_of(self.report)

    @property
    def scored(self) -> NDArray[np.bool_]:
        """(n,) whether a predicted chip was scored: its city is known, and it was drawn where chips were drawn."""
        known = self.found.labelled
        drawn = (self.metrics.get("drawn") or {}).get("chip_ids")
        return known if drawn is None else known & np.isin(self.found.chip_id, drawn)

    def city(self, code: str | None) -> str:
        """A city's name with its code, or what is known of it."""
        if code is None:
            return "unknown"
        name = self.names.get(code)
        return f"{name} ({code})" if name and name != code else code


def order_of(report: Report) -> tuple[str, ...]:
    """City codes in the order of ``metrics["order"]``, or their own where that is absent or names others."""
    order = tuple(report.metrics.get("order") or ())
    return order if sorted(order) == sorted(report.cities) else report.cities
