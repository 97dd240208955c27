"""Runs drawn at random, of as many cities as wanted, and scored, for the tests of their report."""

from __future__ import annotations

from typing import Any, NamedTuple

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely

from dlslicer_geo.scores import score
from dlslicer_geo.types import DETECTORS, Predictions, Report

EIGHT = ("chico", "claremont", "eureka", "lompoc", "modesto", "palmdale", "redding", "riverside")


class World(NamedTuple):
    """Everything ``write_report`` is given."""

    report: Report
    chips: gpd.GeoDataFrame
    found: Predictions
    certificate: dict[str, Any]


def codes_of(number: int) -> tuple[str, ...]:
    """Eight names, or three-letter codes."""
    if number <= 8:
        return EIGHT[:number]
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    return tuple(
        f"{letters[i % 26]}{letters[(i * 7 + 3) % 26]}{letters[(i * 11 + i // 26) % 26]}" for i in range(number)
    )


def world(number: int, *, sites: int = 12, per_site: int = 25, seed: int = 0, rivals: bool = True) -> World:
    """A run of ``number`` cities of 2:1 train and test sites, each a square of chips beside each other.

    With ``rivals`` it has baselines and probes.
    """
    random = np.random.default_rng(seed)
    codes = codes_of(number)
    chips = _chips(codes, sites, per_site, random)
    found = _found(codes, chips, random)
    others: dict[str, Any] = {}
    if rivals:
        others = {
            "colour": _colours(codes, chips, random) if number > 1 else None,
            "frozen": _mistaken(codes, found, 0.5, random).drop(columns="probe"),
            "probes": pd.concat([_mistaken(codes, found, share, random, name) for name, share in PROBES.items()]),
        }
    return World(score(found, chips, unit="site", **others), chips, found, _certificate(codes, chips))


PROBES = {"grey": 0.1, "blur": 0.4, "jpeg 30": 0.01}
"""Changes of chips, and the share of answers that become a random one."""


def _chips(codes: tuple[str, ...], sites: int, per_site: int, random: np.random.Generator) -> gpd.GeoDataFrame:
    edge = int(np.sqrt(per_site))
    city, site, cell = (a.ravel() for a in np.mgrid[: len(codes), :sites, : edge * edge])
    lon = random.uniform(-120, 120, len(codes))[city] + random.uniform(-0.15, 0.15, (len(codes), sites))[city, site]
    lat = random.uniform(-50, 60, len(codes))[city] + random.uniform(-0.1, 0.1, (len(codes), sites))[city, site]
    lon, lat = lon + 0.002 * (cell % edge), lat + 0.0015 * (cell // edge)
    return gpd.GeoDataFrame(
        {
            "chip_id": np.arange(len(city)), "scene_id": [f"{codes[c]}_{s}" for c, s in zip(city, site, strict=True)],
            "city": np.array(codes, object)[city], "site": [f"site {s}" for s in site], "unit": city * sites + site,
            "approximate": False,
            "split": np.array(["train", "train", "test"], object)[site % 3],
        },
        geometry=shapely.box(lon, lat, lon + 0.002, lat + 0.0015), crs=4326,
    )  # fmt: skip


def _found(codes: tuple[str, ...], chips: gpd.GeoDataFrame, random: np.random.Generator) -> Predictions:
    test = chips[chips["split"] == "test"]
    truth = pd.Categorical(test["city"], categories=list(codes)).codes.astype(int)
    ease = random.normal(2.6, 0.9, len(codes))[truth] + random.normal(0, 0.9, len(chips))[test["unit"]]
    logits = random.normal(0, 1, (len(test), len(codes)))
    logits[np.arange(len(test)), truth] += ease
    logits[np.arange(len(test)), (truth + 1) % len(codes)] += 1.2  # alike cities
    logits *= 1.6  # as sure as it should be; the temperature below says that it was surer still
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    scores = {
        "softmax": 1 - probabilities.max(axis=1),
        "energy": -np.log(np.exp(logits).sum(axis=1)),
        "knn": 0.3 * random.random(len(test)) ** 2 + 0.1 * (1 - probabilities.max(axis=1)),
    }
    return Predictions(
        cities=codes, chip_id=test["chip_id"].to_numpy(), scene_id=tuple(test["scene_id"]), truth=tuple(test["city"]),
        probabilities=probabilities.astype(np.float32), temperature=1.6,
        unknown_scores={name: values.astype(np.float32) for name, values in scores.items()},
        detector="energy", threshold=float(np.percentile(scores["energy"], 94)),
    )  # fmt: skip


def _colours(codes: tuple[str, ...], chips: gpd.GeoDataFrame, random: np.random.Generator) -> pd.DataFrame:
    """Means of three bands that tell a city now and then."""
    number = pd.Categorical(chips["city"], categories=list(codes)).codes
    means = random.normal(100, 8, (len(codes), 3))[number] + random.normal(0, 16, (len(chips), 3))
    return pd.DataFrame(means, columns=["mean_1", "mean_2", "mean_3"]).assign(chip_id=chips["chip_id"])


def _mistaken(
    codes: tuple[str, ...], found: Predictions, share: float, random: np.random.Generator, name: str = ""
) -> pd.DataFrame:
    """The answers of ``found``, a share of which became a random city."""
    city = np.where(random.random(len(found)) < share, random.choice(codes, len(found)), np.array(found.city))
    return pd.DataFrame({"chip_id": found.chip_id, "probe": name, "city": city})


def _certificate(codes: tuple[str, ...], chips: gpd.GeoDataFrame) -> dict[str, Any]:
    counts = pd.crosstab(chips["city"], chips["split"]).reindex(
        columns=["train", "val", "test", "unused"], fill_value=0
    )
    return {
        "rule": {"kind": "site", "fractions": [0.6, 0.0, 0.4], "gap_m": 500.0}, "seed": 3,
        "units": {"train": 8 * len(codes), "val": 0, "test": 4 * len(codes)}, "joined_units": 2,
        "dropped": {"nearer than 500 m to val or test": 41}, "chips": counts.loc[list(codes)].to_dict("index"),
        "shared_pixels": 0, "shared_ground_m2": 0.0, "duplicate_images": 0, "approximate_chips": 0,
        "approximate_note": None, "chips_hash": "3d2ae6c2" * 8, "scenes_hash": "1f62bee8" * 8, "proven": True,
        "min_distance_m": {"overall": 512.3, "per_city": {code: 512.3 + 7 * i for i, code in enumerate(codes)}},
    }  # fmt: skip


ABLATION: dict[str, Any] = {
    "rows": [
        {"name": name, "rule": kind, "n_train": 3000, "n_test": 900, "min_distance_m": near,
         "shared_pixels": 0 if near else 81234, "shared_ground_m2": 0.0 if near else 4.1e6, "proven": near > 0,
         "accuracy": accuracy, "interval": [accuracy - 0.04, accuracy + 0.03], "low": accuracy - 0.04,
         "high": accuracy + 0.03}
        for name, kind, near, accuracy in (
            ("random", "random", 0.0, 0.96), ("block-2000m-gap-0m", "block", 0.61, 0.88),
            ("block-2000m-gap-500m", "block", 504.0, 0.85), ("block-2000m-gap-1000m", "block", 1012.0, 0.81),
            ("site", "site", 2380.0, 0.8),
        )
    ],
    "note": "Every leg trains on 3000 chips, with the same recipe and seed; the test chips differ.",
    "seed": 0, "provenance": {"version": "0.1.0"},
}  # fmt: skip
"""What ``pipeline.studies.ablate`` writes."""


def left_out(codes: tuple[str, ...]) -> dict[str, Any]:
    """What ``pipeline.studies.leave_city_out`` writes, drawn."""
    draws = np.random.default_rng(5).uniform(0.6, 0.95, (len(codes), len(DETECTORS)))

    def entry(row: Any) -> dict[str, Any]:
        return {
            "auroc": dict(zip(DETECTORS, row.tolist(), strict=True)),
            "fpr95": dict(zip(DETECTORS, (1.1 - row).tolist(), strict=True)),
        }

    mean = entry(draws.mean(axis=0))
    per_city = {
        code: entry(row) | {"n": 300, "refused": float(row[0] / 2)} for code, row in zip(codes, draws, strict=True)
    }
    return {
        "detector": "energy", "auroc": mean["auroc"]["energy"], "fpr95": mean["fpr95"]["energy"],
        "per_city": per_city, "mean": mean, "provenance": {"version": "0.1.0"},
    }  # fmt: skip


def checked(**changes: Any) -> dict[str, Any]:
    """What ``relevance.check`` says of two methods at two depths; figures of the default may be given anew."""
    rows = [
        {"method": method, "layer": layer, "conservation": kept, "head_shuffled": shuffled,
         "head_shuffled_spread": 0.07, "head_shuffled_absolute": 0.62, "class_contrast": -0.4, "insertion": 0.41,
         "deletion": 0.29, "average_drop": 0.48, "average_increase": 0.125, "twin": None,
         "stages": {"head": shuffled, "layer4": 0.2, "layer3": None}}
        for method, kept, shuffled in (("relevance-cam", 1e-7, 0.98), ("relevance-cam-margin", 4e-6, -0.12))
        for layer in ("layer3", "layer4")
    ]  # fmt: skip
    for row in rows[2:]:
        row.update(changes)
    return {
        "chips": 64, "seed": 0, "cities": 8, "layers": ["layer3", "layer4"], "default": "relevance-cam-margin",
        "input_size": 192, "network": "resnet18", "weights_sha256": "ab" * 32, "explained": "predicted city",
        "rows": rows, "notes": ["Pixels came and went in 8 equal parts."],
    }  # fmt: skip
