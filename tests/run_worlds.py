"""Runs drawn at random, of as many cities as wanted, for the tests of their report: data, not stand-ins."""

from __future__ import annotations

from typing import Any, NamedTuple

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely

from dlslicer_geo.types import Predictions, Report

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


def world(number: int, *, sites: int = 12, per_site: int = 25, seed: int = 0) -> World:
    """A run of ``number`` cities of 2:1 train and test sites, each a square of chips beside each other."""
    random = np.random.default_rng(seed)
    codes = codes_of(number)
    chips = _chips(codes, sites, per_site, random)
    found = _found(codes, chips, random)
    return World(_report(codes, chips, found), chips, found, _certificate(codes, chips))


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
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    energy = -np.log(np.exp(logits).sum(axis=1))
    return Predictions(
        cities=codes, chip_id=test["chip_id"].to_numpy(), scene_id=tuple(test["scene_id"]), truth=tuple(test["city"]),
        probabilities=probabilities.astype(np.float32), temperature=1.6,
        unknown_scores={"energy": energy.astype(np.float32)}, detector="energy",
        threshold=float(np.percentile(energy, 94)),
    )  # fmt: skip


def _report(codes: tuple[str, ...], chips: gpd.GeoDataFrame, found: Predictions) -> Report:
    """Metrics by the contract; intervals are as wide as the numbers of sites suggest and no more is meant by them."""
    truth, said = np.array(found.truth), np.array(found.city)
    right = truth == said
    number = {code: at for at, code in enumerate(codes)}
    confusion = np.zeros((len(codes), len(codes)), np.int64)
    np.add.at(confusion, ([number[t] for t in truth], [number[s] for s in said]), 1)
    site = chips.set_index("chip_id").loc[found.chip_id, "site"].to_numpy()
    table = pd.DataFrame({"city": truth, "site": site, "right": right})
    per_site = table.groupby(["city", "site"], sort=True)["right"].agg(["size", "mean"]).reset_index()
    accuracy = float(right.mean())
    units = len(per_site)
    metrics: dict[str, Any] = {
        "split": "test", "n": len(found), "n_sites": units, "n_units": units, "n_cities": len(codes),
        "chance": 1 / len(codes), "accuracy": accuracy, "balanced_accuracy": accuracy - 0.003,
        "macro_f1": accuracy - 0.01, "top3_accuracy": min(1.0, accuracy + 0.1),
        "top5_accuracy": min(1.0, accuracy + 0.13), "accuracy_interval": around(accuracy, units),
        "intervals": {
            "accuracy": around(accuracy, units), "balanced_accuracy": around(accuracy - 0.003, units),
            "macro_f1": around(accuracy - 0.01, units), "top3_accuracy": around(accuracy + 0.1, units),
            "top5_accuracy": None,
        },
        "interval": {"level": 0.95, "unit": "site", "draws": 2000, "seed": 0, "method": "Drawn for a test."},
        "per_city": {code: _city(code, table, confusion, number[code]) for code in codes},
        "per_site": [
            {"city": city, "site": name, "n": n, "accuracy": share}
            for city, name, n, share in per_site.astype(object).to_numpy().tolist()
        ],
        "order": list(codes), "most_confused": _pairs(codes, confusion),
        "votes": {
            "scene": {"n": units, "accuracy": accuracy + 0.05, "interval": around(accuracy + 0.05, units)},
            "site": {"n": units, "accuracy": accuracy + 0.06, "interval": None},
        },
        "calibration": _calibration(found, right),
        "unknown": {
            "detector": "energy", "threshold": found.threshold, "known_kept": float((~found.unknown).mean()),
            "accuracy_of_known": float(right[~found.unknown].mean()),
        },
        "distance": {
            "bins": [
                {"low_m": 200.0 * 4**at, "high_m": 200.0 * 4 ** (at + 1), "n": 100 * (at + 1),
                 "accuracy": accuracy - 0.03 * at, "interval": around(accuracy - 0.03 * at, units)}
                for at in range(5)
            ],
            "note": "Bins hold about as many chips each.",
        },
        "baselines": {
            "most_frequent": _baseline(1 / len(codes), accuracy, units), "frozen": None,
            "colour": _baseline(1 / len(codes) + 0.2, accuracy, units),
        },
        "probes": {
            name: {"accuracy": accuracy - drop, "interval": around(accuracy - drop, units),
                   "drop": {"accuracy": drop, "interval": [drop - 0.02, drop + 0.02]}}
            for name, drop in (("grey", 0.08), ("blur", 0.3), ("jpeg 30", 0.01))
        },
        "against": None, "drawn": None,
        "caveats": ["All cities lie in one state: this says nothing about the world."],
    }  # fmt: skip
    return Report(metrics=metrics, confusion=confusion, cities=codes)


def around(value: float, units: int) -> list[float]:
    """An interval about as wide as one over so many units."""
    half = 1.96 * np.sqrt(max(value * (1 - value), 1e-3) / units)
    return [float(max(0, value - half)), float(min(1, value + half))]


def _city(code: str, table: pd.DataFrame, confusion: Any, at: int) -> dict[str, Any]:
    mine = table[table["city"] == code]
    accuracy, sites = float(mine["right"].mean()), int(mine["site"].nunique())
    precision = float(confusion[at, at] / max(confusion[:, at].sum(), 1))
    return {
        "n": len(mine), "n_sites": sites, "accuracy": accuracy,
        "interval": around(accuracy, sites) if sites > 1 else None, "precision": precision,
        "f1": 2 * accuracy * precision / max(accuracy + precision, 1e-9),
    }  # fmt: skip


def _pairs(codes: tuple[str, ...], confusion: Any) -> list[dict[str, Any]]:
    wrong = confusion - np.diag(confusion.diagonal())
    order = np.argsort(-wrong.ravel(), kind="stable")[:20]
    rows, cols = np.unravel_index(order, wrong.shape)
    return [
        {"truth": codes[r], "predicted": codes[c], "count": int(wrong[r, c]),
         "share": float(wrong[r, c] / confusion[r].sum())}
        for r, c in zip(rows, cols, strict=True) if wrong[r, c]
    ]  # fmt: skip


def _calibration(found: Predictions, right: Any) -> dict[str, Any]:
    return {
        "temperature": 1.6, "ece": 0.021, "ece_interval": [0.011, 0.04], "ece_uncalibrated": 0.093, "nll": 0.71,
        "nll_uncalibrated": 0.82, "brier": 0.31, "brier_uncalibrated": 0.34, "bins": _bins(found.confidence, right),
        "bins_uncalibrated": _bins(found.uncalibrated.max(axis=1), right),
    }  # fmt: skip


def _bins(confidence: Any, right: Any) -> list[dict[str, Any]]:
    at = np.minimum((confidence * 15).astype(int), 14)
    return [
        {"low": b / 15, "high": (b + 1) / 15, "n": int((at == b).sum()),
         "confidence": float(confidence[at == b].mean()) if (at == b).any() else None,
         "accuracy": float(right[at == b].mean()) if (at == b).any() else None}
        for b in range(15)
    ]  # fmt: skip


def _baseline(accuracy: float, model: float, units: int) -> dict[str, Any]:
    return {
        "accuracy": accuracy, "balanced_accuracy": accuracy, "macro_f1": accuracy / 2,
        "interval": around(accuracy, units),
        "gain": {"accuracy": model - accuracy, "interval": [model - accuracy - 0.05, model - accuracy + 0.05],
                 "p": 0.0001},
    }  # fmt: skip


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
        {"name": name, "rule": {"kind": kind}, "n_train": 3000, "n_test": 900, "min_distance_m": near,
         "proven": near is not None and name != "random", "accuracy": accuracy,
         "interval": [accuracy - 0.04, accuracy + 0.03], "shared_pixels": 81234 if name == "random" else 0,
         "shared_ground_m2": 4.1e6 if name == "random" else 0.0}
        for name, kind, near, accuracy in (
            ("random", "random", 0.0, 0.97), ("block", "block", 0.0, 0.88), ("block, 200 m", "block", 204.0, 0.85),
            ("block, 1 km", "block", 1012.0, 0.81), ("site", "site", 2380.0, 0.8),
        )
    ],
    "note": "Every split keeps as many training chips as the smallest one has.",
}  # fmt: skip


def left_out(codes: tuple[str, ...]) -> dict[str, Any]:
    """Figures of leaving one city out, drawn."""
    draws = np.random.default_rng(5).uniform(0.6, 0.95, (len(codes), 3))

    def entry(row: Any, number: int) -> dict[str, Any]:
        names = ("softmax", "energy", "knn")
        return {
            "auroc": dict(zip(names, row.tolist(), strict=True)), "n": number,
            "fpr95": dict(zip(names, (1.1 - row).tolist(), strict=True)),
        }  # fmt: skip

    return {
        "detector": "energy", "auroc": float(draws[:, 1].mean()), "fpr95": float(1.1 - draws[:, 1].mean()),
        "per_city": {code: entry(row, 300) for code, row in zip(codes, draws, strict=True)},
        "mean": entry(draws.mean(axis=0), 300 * len(codes)),
    }  # fmt: skip
