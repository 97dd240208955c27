"""The verbs of the command line, and what ``--help`` says of them."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

PROG = "dlslicer-geo"


@dataclass(frozen=True, slots=True)
class Verb:
    """What ``--help`` says of a verb.

    Args:
        does: one line.
        writes: what is there afterwards.
        sections: sections of the experiment file it obeys.
    """

    does: str
    writes: str
    sections: tuple[str, ...] = ()


ALL_SECTIONS = (
    "data", "chips", "split", "model", "fit", "predict", "probe", "check", "score", "explain", "similar",
    "map", "catalog", "compute",
)  # fmt: skip

VERBS = {
    "scan": Verb(
        "find the scenes, place them on the ground, and measure them",
        "scenes.parquet, scenes.html, prepared/",
        ("data", "compute"),
    ),
    "cut": Verb("lay the chip grid over every scene, in whole pixels", "cut.parquet", ("chips",)),
    "split": Verb(
        "share chips out between train, val and test, and prove that no ground is shared",
        "chips.parquet, split_certificate.json",
        ("split",),
    ),
    "fit": Verb(
        "train and calibrate the classifier; refuses a split that is not proven",
        "model.ckpt, fit/",
        ("model", "fit", "compute"),
    ),
    "predict": Verb(
        "name the city of every chip, or say that it is unknown; resumably",
        "predictions/, gis/predictions.gpkg, gis/city, gis/confidence",
        ("predict", "compute"),
    ),
    "probe": Verb(
        "ask about chips without colour, detail ..., and the backbone untrained",
        "probes.parquet, frozen.parquet",
        ("probe",),
    ),
    "check": Verb(
        "check whether explanations can be right, beside other methods",
        "saliency_check.json",
        ("check",),
    ),
    "score": Verb(
        "compare predictions with the truth, baselines and another run, with intervals",
        "report.html, metrics.json, confusion.csv, figures/",
        ("score",),
    ),
    "explain": Verb(
        "show on the ground what gave the city away; --check: can that be right?",
        "gis/saliency/*.tif, saliency.parquet, saliency_cities.csv, gallery.html, figures/gallery, figures/portrait",
        ("explain", "check", "compute"),
    ),
    "similar": Verb(
        "say which cities resemble each other, and find look-alikes",
        "similarity.csv, neighbours.parquet, figures/similarity",
        ("similar",),
    ),
    "map": Verb("put all layers into one HTML file that opens without a network", "map.html, map/", ("map",)),
    "catalog": Verb(
        "list everything for a GIS: a QGIS project and a STAC catalogue",
        "project.qgz, catalog.json, stac/",
        ("catalog",),
    ),
    "run": Verb("do all of the above in order, skipping what is up to date", "all of the above", ALL_SECTIONS),
    "verify": Verb("measure a run's split again from its tables, and compare with the certificate", "nothing"),
    "ablate": Verb(
        "train one recipe on splits that leak and that do not: what a leak is worth",
        "ablation.json, ablation.csv, figures/ablation.png, ablation/",
        ALL_SECTIONS,
    ),
    "leave-city-out": Verb(
        "leave out each city in turn, and measure how well it is told as unknown",
        "leave_city_out.json, leave_city_out.csv, leave_city_out/",
        ALL_SECTIONS,
    ),
    "apply": Verb("use a trained model on new images", "predictions, saliency and a map in one folder"),
    "download": Verb("fetch the published images, resumably and checked", "raw/<City (CODE)>/<SITE>/*.jpg"),
    "import-checkpoint": Verb("turn a checkpoint of the DL-SLICER authors into a model.ckpt", "model.ckpt"),
    "serve": Verb("show a run folder in a browser, read only and on this machine alone", "nothing"),
    "doctor": Verb("check versions, GDAL, torch, devices, disk and the demo's data", "nothing"),
}


def overview() -> str:
    """What ``--help`` says without a verb."""
    verbs = "\n".join(f"  {name:<18}{verb.does}" for name, verb in VERBS.items())
    return (
        f"usage: {PROG} VERB EXPERIMENT.yaml [--section.key value ...] [--out RUN]\n"
        f"       {PROG} scan IMAGES --out RUN\n"
        f"       {PROG} verify RUN\n"
        f"       {PROG} apply MODEL IMAGES... --out DIR\n"
        f"       {PROG} serve RUN\n\n"
        "Which city is this, and which streets gave it away: geospatial DL-SLICER.\n\n"
        f"verbs:\n{verbs}\n\n"
        f"{PROG} VERB --help says what a verb obeys. --debug shows tracebacks, --version the version."
    )


def keys_of(sections: Sequence[str]) -> str:
    """What the experiment file may say for these sections, with defaults."""
    from dlslicer_geo.config import describe

    lines = []
    for section in sections:
        lines.append(f"{section}:")
        for name, text in describe(section):
            wrapped = textwrap.wrap(text, 76)
            lines += [f"  --{section}.{name:<{22 - len(section)}} {wrapped[0]}", *(" " * 28 + w for w in wrapped[1:])]
        lines.append("")
    return "\n".join(lines)
