"""An experiment in, the same recipe on several splits, and a table of what that changed, out.

Every leg of a study is a run folder of its own with the stations from ``fit`` on, so that a study that was stopped
goes on where it was.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dlslicer_geo.config import Config, is_address
from dlslicer_geo.errors import SplitError
from dlslicer_geo.files import read_json, write_json, write_table, write_text
from dlslicer_geo.pipeline import ranks
from dlslicer_geo.pipeline.paths import check_paths, relative_to
from dlslicer_geo.pipeline.runs import Run, execute
from dlslicer_geo.pipeline.stations import STATIONS
from dlslicer_geo.types import DETECTORS, Progress, SplitRule, quiet

if TYPE_CHECKING:
    from geopandas import GeoDataFrame
    from pandas import DataFrame

logger = logging.getLogger(__name__)

GAPS = (0.0, 500.0, 1000.0)
"""Gaps between blocks in metres that an ablation tries."""

Legs = dict[str, tuple[Config, "GeoDataFrame", dict[str, Any]]]


def ablate(config: Config, out: str | Path, *, gaps: Sequence[float] = GAPS, progress: Progress = quiet) -> DataFrame:
    """Measure what a leak would have been worth: the same recipe on splits that leak and on splits that do not.

    All legs train on the same number of chips, drawn where a leg has more, because more data would be mistaken for a
    leak otherwise. The legs are ``random`` (chip by chip), ``block`` with every gap, and ``site``; where positions
    are approximate, blocks of ground mean nothing, and there are none.

    Args:
        config: the experiment; its ``split.kind``, ``gap_m`` and date rule are replaced.
        out: run folder; legs go to ``out/ablation/<leg>``.
        gaps: metres between blocks.
        progress: shows how far it is.

    Returns:
        one row per leg: ``name``, ``rule``, ``n_train``, ``n_test``, ``min_distance_m`` (from train to test),
        ``shared_pixels``, ``shared_ground_m2``, ``proven``, ``accuracy``, ``low``, ``high``; also in
        ``ablation.json`` and ``ablation.csv``, drawn in ``figures/ablation.png``.

    Raises:
        DlslicerError: whatever a station raises.
    """
    from dlslicer_geo import report

    base = _base(config, out, progress)
    if gaps and base.chips("cut.parquet")["approximate"].any():
        logger.warning("some positions are approximate: the legs with blocks are left out")
        gaps = ()
    legs = _same_size(_split_legs(base, _rules(config.split, gaps)), base.scenes())
    rows = []
    for name, leg in legs.items():
        run = _leg(base, f"ablation/{name}", leg, ("fit", "predict", "score"))
        rows.append(_ablation_row(name, leg, read_json(run.folder / "metrics.json")))
        logger.info("%s: accuracy %.3f", name, rows[-1]["accuracy"])
    sizes = {row["n_train"] for row in rows}
    note = f"Every leg trains on {max(sizes)} chips: {_recipe(config)}; the test chips differ."
    study = {"rows": rows, "note": note, "seed": config.seed, "provenance": base.provenance}
    table = _table(rows)
    ranks.first(lambda: _written(base, "ablation", study, table))
    ranks.first(lambda: report.draw_ablation(study, base.folder / "figures" / "ablation.png"))
    return table


def leave_city_out(config: Config, out: str | Path, *, progress: Progress = quiet) -> DataFrame:
    """Measure how well a city that a model never saw is told from those it knows, once for every city.

    For each city the recipe is trained without it; the detectors then tell its chips, all of them, from the test
    chips of the other cities.

    Args:
        config: the experiment.
        out: run folder; legs go to ``out/leave_city_out/<city>``, whose name is made safe.
        progress: shows how far it is.

    Returns:
        one row per city: ``city``, ``n`` (its chips), ``n_known``, ``auroc_<detector>``, ``fpr95_<detector>`` and
        ``refused`` (share of its chips above the threshold that the model stores); also in ``leave_city_out.json``
        and ``leave_city_out.csv``.

    Raises:
        SplitError: if there are fewer than three cities.
        DlslicerError: whatever a station raises.
    """
    from dlslicer_geo.layers.rasters import unique_name

    base = _base(config, out, progress)
    chips, certificate = _split(base, config.split)
    cities = sorted(chips["city"].dropna().unique())
    if len(cities) < 3:
        raise SplitError(f"there are {len(cities)} cities: at least 3 are needed, as 2 must be left to tell apart")
    rows = []
    for city in cities:
        leg = f"leave_city_out/{unique_name(city)}"
        run = _leg(base, leg, _without(base, chips, certificate, city), ("fit", "predict"))
        rows.append(_unknown_row(city, run))
        logger.info("%s left out: AUROC %.3f (knn)", city, rows[-1]["auroc_knn"])
    table = _table(rows)
    ranks.first(lambda: _written(base, "leave_city_out", _summary(table, base), table))
    return table


def _base(config: Config, out: str | Path, progress: Progress) -> Run:
    """The run folder of a study, with its scenes and chips."""
    check_paths(config)
    run = Run(config=config, folder=Path(out), progress=progress)
    execute(run, [station for station in STATIONS if station.name in ("scan", "cut")])
    run.station = STATIONS[2]
    return run


def _rules(asked: SplitRule, gaps: Sequence[float]) -> Iterator[tuple[str, SplitRule]]:
    # a city too small for one leg leaves that leg, and not the study
    plain = dataclasses.replace(asked, gap_m=0.0, test_from=None, given=None, kind="random", allow_empty=("*",))
    yield "random", plain
    for gap in gaps:
        name = f"block-{asked.block_m:g}m-gap-{gap:g}m"
        yield name, dataclasses.replace(plain, kind="block", gap_m=float(gap))
    yield "site", dataclasses.replace(plain, kind="site")


def _split_legs(base: Run, rules: Iterator[tuple[str, SplitRule]]) -> Legs:
    return {name: (dataclasses.replace(base.config, split=rule), *_split(base, rule)) for name, rule in rules}


def _split(base: Run, rule: SplitRule) -> tuple[GeoDataFrame, dict[str, Any]]:
    from dlslicer_geo import splits
    from dlslicer_geo.pipeline.readers import read_given

    given = read_given(rule.given) if rule.given else None
    return splits.split(base.chips("cut.parquet"), rule, scenes=base.scenes(), given=given)


def _same_size(legs: Legs, scenes: GeoDataFrame) -> Legs:
    """Legs that all train on as many chips of each city as the leg that has fewest of it."""
    from dlslicer_geo import splits

    counts = [chips.loc[chips["split"] == "train", "city"].value_counts() for _, chips, _ in legs.values()]
    cities = sorted(set().union(*(count.index for count in counts)))
    fewest = {city: min(int(count.get(city, 0)) for count in counts) for city in cities}
    same: Legs = {}
    for name, (config, chips, certificate) in legs.items():
        left = _thinned(chips, fewest, config.split.seed)
        lost = int((left["split"] != chips["split"]).sum())
        reason = {"drawn out so that all legs train alike": lost} if lost else {}
        measured = splits.measure(left, scenes=scenes) | {"proven": certificate["proven"]}
        same[name] = (config, left, certificate | measured | {"dropped": certificate["dropped"] | reason})
    return same


def _thinned(chips: GeoDataFrame, fewest: dict[str, int], seed: int) -> GeoDataFrame:
    random = np.random.default_rng(seed)
    split = chips["split"].to_numpy(object).copy()
    for city in sorted(fewest):
        rows = np.flatnonzero((split == "train") & (chips["city"] == city).to_numpy(bool))
        split[random.permutation(rows)[fewest[city] :]] = "unused"
    return chips.assign(split=split)


def _without(
    base: Run, chips: GeoDataFrame, certificate: dict[str, Any], city: str
) -> tuple[Config, GeoDataFrame, dict[str, Any]]:
    """A leg in which all chips of a city are test chips."""
    from dlslicer_geo import splits

    left = chips.assign(split=chips["split"].where(chips["city"] != city, "test"))
    facts = {"rule": certificate["rule"], "seed": certificate["seed"], "left_out": city}
    return base.config, left, facts | splits.verify(left, scenes=base.scenes())


def _leg(base: Run, name: str, leg: tuple[Config, GeoDataFrame, dict[str, Any]], stations: Sequence[str]) -> Run:
    """Write the tables of a leg, and do its stations."""
    config, chips, certificate = leg
    plain = dataclasses.replace(config.score, colour_baseline=False, against=None)
    config = dataclasses.replace(
        config, score=plain, predict=dataclasses.replace(config.predict, split="test", embedding=False)
    )
    run = Run(config=config, folder=base.folder / name, progress=base.progress)
    ranks.first(lambda: _tables(base, run.folder, chips, certificate))
    logger.info("%s", run.folder)
    return execute(run, [station for station in STATIONS if station.name in stations])


def _tables(base: Run, folder: Path, chips: GeoDataFrame, certificate: dict[str, Any]) -> None:
    """What the stations of a leg read."""
    scenes = base.scenes()
    for column in ("path", "source"):
        scenes[column] = [p if is_address(p) else relative_to(folder, p) for p in scenes[column]]
    write_table(scenes, folder / "scenes.parquet", base.provenance)
    write_table(chips, folder / "chips.parquet", base.provenance)
    write_json(folder / "split_certificate.json", certificate)


def _written(base: Run, name: str, study: dict[str, Any], table: DataFrame) -> None:
    """A study as the report reads it, and as a table."""
    write_json(base.folder / f"{name}.json", study)
    write_text(base.folder / f"{name}.csv", table.to_csv(index=False, lineterminator="\n"))


def _ablation_row(
    name: str, leg: tuple[Config, GeoDataFrame, dict[str, Any]], metrics: dict[str, Any]
) -> dict[str, Any]:
    from dlslicer_geo import splits

    config, chips, certificate = leg
    ends = chips.assign(split=chips["split"].replace("val", "unused"))
    low, high = metrics["accuracy_interval"] or (None, None)
    return {
        "name": name,
        "rule": config.split.kind,
        "n_train": int((chips["split"] == "train").sum()),
        "n_test": metrics["n"],
        "min_distance_m": splits.measure(ends)["min_distance_m"]["overall"],
        "shared_pixels": certificate["shared_pixels"],
        "shared_ground_m2": certificate["shared_ground_m2"],
        "proven": certificate["proven"],
        "accuracy": metrics["accuracy"],
        "interval": metrics["accuracy_interval"],
        "low": low,
        "high": high,
    }


def _unknown_row(city: str, run: Run) -> dict[str, Any]:
    from dlslicer_geo import scores
    from dlslicer_geo.predict import read_predictions

    found = read_predictions(run.folder / "predictions")
    home = run.chips().set_index("chip_id")["city"].reindex(found.chip_id)
    strange = (home == city).to_numpy(bool)
    known = found.labelled  # neither: a chip of no city, or never learnt
    measured = {
        name: scores.detector_metrics(values[known], values[strange]) for name, values in found.unknown_scores.items()
    }
    row = {"city": city, "n": int(strange.sum()), "n_known": int(known.sum())}
    row |= {f"auroc_{name}": measured[name]["auroc"] for name in DETECTORS}
    row |= {f"fpr95_{name}": measured[name]["fpr95"] for name in DETECTORS}
    return row | {"detector": found.detector, "refused": float(found.unknown[strange].mean())}


def _summary(table: DataFrame, base: Run) -> dict[str, Any]:
    """The study as the report reads it."""
    kinds = ("auroc", "fpr95")

    def nested(row: Any) -> dict[str, Any]:
        return {kind: {name: float(row[f"{kind}_{name}"]) for name in DETECTORS} for kind in kinds}

    detector = str(table["detector"].iloc[0])
    numbers = table.drop(columns=["city", "detector"]).mean()
    return {
        "detector": detector,
        "note": f"Trained without the city: {_recipe(base.config)}.",
        "auroc": float(numbers[f"auroc_{detector}"]),
        "fpr95": float(numbers[f"fpr95_{detector}"]),
        "per_city": {
            row["city"]: nested(row) | {"n": int(row["n"]), "refused": row["refused"]}
            for row in table.to_dict("records")
        },
        "mean": nested(numbers) | {"refused": float(numbers["refused"])},
        "provenance": base.provenance,
    }


def _recipe(config: Config) -> str:
    """How the legs are trained, in words."""
    model, fit = config.model, config.fit
    return f"{model.name} at {model.input_size} px, {fit.max_epochs} epochs, seed {config.seed}"


def _table(rows: list[dict[str, Any]]) -> DataFrame:
    import pandas as pd

    return pd.DataFrame(rows).drop(columns="interval", errors="ignore")
