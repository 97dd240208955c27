"""A run in, what stands on the terminal while it works and when it is done out."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from dlslicer_geo.cli.verbs import PROG

if TYPE_CHECKING:
    from dlslicer_geo.pipeline.runs import Run

T = TypeVar("T")


def last_screen(done: Run, seconds: float, out: str | Path) -> str:
    """What was measured, where it lies and how long it took; ``out`` is the folder or address that was asked for."""
    from dlslicer_geo.config import is_address
    from dlslicer_geo.scenes.sources import redact

    lines = [""]
    if not done.worked:
        lines += [f"Nothing to do: {done.folder} is up to date.", ""]
    if "score" in done.obeyed:
        lines += _scores(done.folder)
    shown = [
        ("scenes", "scenes.html", "what was found, and what to look at"),
        ("map", "map.html", "open it in a browser"),
        ("report", "report.html", "every figure, how sure it is, and what it does not say"),
        ("project", "project.qgz", "every layer, grouped and coloured: open it in QGIS"),
        ("GeoPackage", "gis/predictions.gpkg", "drag it into QGIS"),
        ("city rasters", "gis/city", "Cloud Optimized GeoTIFF"),
        ("saliency", "gis/saliency", "Cloud Optimized GeoTIFF"),
        ("gallery", "gallery.html", "chips, heat maps and masked chips of every city, and its portrait"),
        ("catalogue", "catalog.json", "STAC: scenes, outputs and model, for whoever searches"),
        ("certificate", "split_certificate.json", _proven(done.folder)),
        ("model", "model.ckpt", f"{PROG} apply {done.folder} IMAGE.tif --out DIR"),
    ]
    there = [(what, done.folder / name, how) for what, name, how in shown if (done.folder / name).exists()]
    width = max((len(str(path)) for _, path, _ in there), default=0)
    lines += [f"  {what:<13}{path!s:<{width}}  {how}" for what, path, how in there]
    if is_address(str(out)):
        lines += ["", f"  All of it is at {redact(str(out))}"]
    return "\n".join([*lines, "", f"{', '.join(done.worked) or 'nothing'} in {seconds:.0f} s"])


def _proven(folder: Path) -> str:
    from dlslicer_geo.files import read_json

    path = folder / "split_certificate.json"
    stated = read_json(path) if path.exists() else {}
    if not stated.get("proven", True):
        return "THE SPLITS LEAK: see what they share"
    vague = " (by their pixels: positions are approximate)" if stated.get("approximate_chips") else ""
    return f"no two splits share ground{vague}: {PROG} verify {folder}"


def _scores(folder: Path) -> list[str]:
    from dlslicer_geo.files import read_json

    if not (folder / "metrics.json").exists():
        return []
    metrics = read_json(folder / "metrics.json")
    low, high = metrics["accuracy_interval"] or (float("nan"), float("nan"))
    lines = [
        f"{metrics['split']} accuracy    {metrics['accuracy']:.3f}   (95 % interval {low:.3f} to {high:.3f}, "
        f"{metrics['n']} chips, chance {metrics['chance']:.3f})"
    ]
    for name, values in metrics["baselines"].items():
        if values is not None:
            lines.append(f"  {name.replace('_', ' '):<15}{values['accuracy']:.3f}")
    if metrics["unknown"] is not None:
        lines.append(
            f"  called unknown {1 - metrics['unknown']['known_kept']:.3f}   of these chips, all of known cities"
        )
    if metrics["against"] is not None:
        lines.append(_against(metrics["against"]))
    return [*lines, ""]


def _against(found: dict[str, Any]) -> str:
    low, high = found["interval"] or (float("nan"), float("nan"))
    return (
        f"  against {found['name']}: {found['difference']:+.3f}   (95 % interval {low:+.3f} to {high:+.3f}, "
        f"p {found['p']:.3f}, {found['n']} chips of both)"
    )


class Bars:
    """Progress bars on a terminal, a line for every tenth otherwise."""

    def __init__(self) -> None:
        self.live: Any = None

    def __enter__(self) -> Bars:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self.live = Progress(*columns, console=Console(stderr=True), transient=True)
            self.live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self.live is not None:
            self.live.stop()

    def track(self, items: Iterable[T], *, total: int, label: str) -> Iterator[T]:
        """The :class:`~dlslicer_geo.types.Progress` of this terminal."""
        if self.live is not None:
            yield from self.live.track(items, total=total, description=label)
            return
        begin, said = time.monotonic(), 0
        for number, item in enumerate(items, 1):
            yield item
            tenth, elapsed = number * 10 // max(total, 1), time.monotonic() - begin
            if tenth > said and elapsed > 5:
                said = tenth
                left = elapsed / number * (total - number)
                logging.getLogger(__name__).info("%s: %d of %d, %.0f s left", label, number, total, left)
