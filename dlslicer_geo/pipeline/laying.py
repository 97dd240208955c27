"""A ``Run`` and a model with its question in; saliency out, laid on the ground while more is explained."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any

from dlslicer_geo.files import read_json, write_table
from dlslicer_geo.pipeline.ahead import ahead, until
from dlslicer_geo.pipeline.runs import Run
from dlslicer_geo.types import Layer

if TYPE_CHECKING:
    import numpy as np
    from geopandas import GeoDataFrame
    from numpy.typing import NDArray
    from pandas import DataFrame

    from dlslicer_geo.layers import Question
    from dlslicer_geo.relevance import Explainer
    from dlslicer_geo.types import Saliency

logger = logging.getLogger(__name__)

TOGETHER = 64
"""Chips of small scenes that are explained together: a killed run loses three times as many at most."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Group:
    """Scenes whose chips are explained together, and what is left to explain.

    Args:
        scenes: chips of each by scene id; one scene if it is large.
        left: chips that will be asked for together, in this order.
    """

    scenes: Mapping[str, DataFrame]
    left: Sequence[NDArray[np.int64]]


def together(chips: GeoDataFrame, chosen: NDArray[np.int64]) -> list[dict[str, DataFrame]]:
    """Small scenes that are explained in one go, large ones by themselves; the same ones each time."""
    rows = chips.set_index("chip_id", drop=False).loc[chosen]
    groups: list[dict[str, DataFrame]] = [{}]
    for scene, own in rows.groupby("scene_id", sort=True):
        if groups[-1] and sum(map(len, groups[-1].values())) + len(own) > TOGETHER:
            groups.append({})
        groups[-1][str(scene)] = own
    return groups


def lay(
    run: Run, asking: Explainer, groups: Sequence[Mapping[str, DataFrame]], work: Path
) -> Iterator[tuple[str, Layer]]:
    """Scene ids with the layers of their saliency files.

    The network is at the next chips while those before them are laid and written.
    """
    from dlslicer_geo import layers as gis

    options: dict[str, Any] = {"provenance": run.provenance, "sanity": sanity(run, asking)}
    planned = [_planned(run, asking, scenes, work) for scenes in groups]
    there = sum(len(group.scenes) for group in planned if not group.left)
    if there:
        logger.info("%d of %d scenes are explained already", there, sum(len(group.scenes) for group in planned))
    left, over = [chips for group in planned for chips in group.left], Event()
    with ahead(asking.stream(left, progress=until(over)), over=over) as answers:
        for group in run.progress(planned, total=len(planned), label="explain scenes"):
            ask = _ask(group, answers, work)
            for scene, chips in group.scenes.items():
                question = _question(asking, scene, chips, work)
                yield scene, gis.stream_saliency(ask, chips, run.folder / "gis", question=question, **options)


def noted(why: Saliency, parts: Path) -> Saliency:
    """An answer, its summary on disk before its rows are: a killed run asks for it no more."""
    from dlslicer_geo.relevance.summaries import summarize

    write_table(summarize(why), parts / f"part-{why.chip_id.min():09d}-{why.chip_id.max():09d}.parquet")
    return why


def sanity(run: Run, asking: Explainer) -> dict[str, str]:
    """What a check of this model, here or where it was trained, found of this method: for the tags of its files."""
    places = [folder / "saliency_check.json" for folder in (run.folder, run.checkpoint.parent)]
    said: dict[str, Any] = next((read_json(place) for place in places if place.exists()), {})
    if said.get("weights_sha256") != asking.notes["weights_sha256"]:
        return {}
    figures = ("conservation", "head_shuffled", "head_shuffled_absolute", "class_contrast", "twin")
    return {
        f"{name}_{row['layer']}": f"{row[name]:.3g}"
        for row in said["rows"]
        if row["method"] == asking.method and row["layer"] in asking.layers
        for name in figures
        if row.get(name) is not None
    }


def _planned(run: Run, asking: Explainer, scenes: Mapping[str, DataFrame], work: Path) -> Group:
    """What is left to ask: of several small scenes all or nothing, so that they are always asked for alike."""
    import numpy as np

    from dlslicer_geo import layers as gis

    left: list[NDArray[np.int64]] = []
    for scene, chips in scenes.items():
        left += gis.questions_left(chips, run.folder / "gis", question=_question(asking, scene, chips, work))
    if left and len(scenes) > 1:
        left = [np.concatenate([chips["chip_id"].to_numpy(np.int64) for chips in scenes.values()])]
    return Group(scenes=scenes, left=left)


def _question(asking: Explainer, scene: str, chips: DataFrame, work: Path) -> Question:
    from dlslicer_geo import layers as gis

    return gis.Question(
        scene=scene, city=asking.city_of(scene, chips["city"].iloc[0]), method=asking.method,
        layers=asking.layers, rather_than=asking.rather_than, identity=work.name,
    )  # fmt: skip


def _ask(group: Group, answers: Iterator[Saliency], parts: Path) -> Callable[[NDArray[np.int64]], Saliency]:
    """What answers for the chips of a group; several scenes are answered for at once, when the first one asks."""
    import numpy as np

    if len(group.scenes) == 1:
        return lambda ids: noted(next(answers), parts)
    together: list[Saliency] = []

    def ask(ids: NDArray[np.int64]) -> Saliency:
        if not together:
            together.append(noted(next(answers), parts))
        return together[0].select(np.isin(together[0].chip_id, ids))

    return ask
