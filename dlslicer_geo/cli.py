"""Command-line words in, one call and its sentences out; the only module that prints."""

from __future__ import annotations

import argparse
import ctypes
import logging
import platform
import sys
import textwrap
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from dlslicer_geo import __version__
from dlslicer_geo.errors import ConfigError, DlslicerError

if TYPE_CHECKING:
    from dlslicer_geo.pipeline.runs import Run

T = TypeVar("T")

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


ALL_SECTIONS = ("data", "chips", "split", "model", "fit", "predict", "score", "explain", "similar", "map")

VERBS = {
    "scan": Verb("find the scenes: their city, site, date, resolution and valid area", "scenes.parquet", ("data",)),
    "cut": Verb("lay the chip grid over every scene, in whole pixels", "cut.parquet", ("chips",)),
    "split": Verb(
        "share chips out between train, val and test, and prove that no ground is shared",
        "chips.parquet, split_certificate.json",
        ("split",),
    ),
    "fit": Verb("train the classifier; refuses a split that is not proven", "model.ckpt, fit/", ("model", "fit")),
    "predict": Verb(
        "name the city of every chip, resumably",
        "predictions/, gis/predictions.gpkg, gis/city, gis/confidence",
        ("predict",),
    ),
    "score": Verb(
        "compare predictions with the truth and with two baselines",
        "metrics.json, confusion.csv, figures/confusion.png",
        ("score",),
    ),
    "explain": Verb(
        "show on the ground what gave the city away", "gis/saliency/*.tif, figures/gallery.png", ("explain",)
    ),
    "similar": Verb(
        "say which cities resemble each other, and find look-alikes",
        "similarity.csv, neighbours.parquet",
        ("similar",),
    ),
    "map": Verb("put all layers into one HTML file that opens without a network", "map.html", ("map",)),
    "run": Verb("do all of the above in order, skipping what is up to date", "all of the above", ALL_SECTIONS),
    "apply": Verb("use a trained model on new images", "predictions, saliency and a map in one folder"),
    "doctor": Verb("check versions, GDAL, torch, devices, disk and the demo's data", "nothing"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb.

    Returns:
        0 when it worked, 2 after one sentence about what is wrong with the input, 130 after Ctrl-C.
    """
    _keep_freed_memory()
    words = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    logging.getLogger("dlslicer_geo").setLevel(logging.DEBUG if debug else logging.INFO)
    for name in ("rasterio", "fiona", "pyogrio", "matplotlib"):
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        return _dispatch(words)
    except DlslicerError as error:
        if debug:
            raise
        print(f"{PROG}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{PROG}: stopped; the same command goes on from here", file=sys.stderr)
        return 130


def _keep_freed_memory() -> None:
    """Let glibc keep what a network's layers free, instead of fetching zeroed pages for each: 1.2–1.8× on a CPU."""
    if platform.libc_ver()[0] == "glibc":
        mallopt, mmap_threshold, trim_threshold = ctypes.CDLL(None).mallopt, -3, -1  # names in malloc.h
        mallopt(mmap_threshold, 2**30)
        mallopt(trim_threshold, 2**31 - 1)


def _dispatch(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help"):
        print(_overview())
        return 0
    if words[0] == "--version":
        print(f"{PROG} {__version__}")
        return 0
    verb, rest = words[0], words[1:]
    if verb not in VERBS:
        raise ConfigError(f"unknown verb {verb!r}; known ones are {', '.join(VERBS)}")
    handlers: dict[str, Callable[[list[str]], int]] = {"apply": _apply, "doctor": _doctor}
    return handlers[verb](rest) if verb in handlers else _station(verb, rest)


def _overview() -> str:
    verbs = "\n".join(f"  {name:<9}{verb.does}" for name, verb in VERBS.items())
    return (
        f"usage: {PROG} VERB EXPERIMENT.yaml [--section.key value ...] [--out RUN]\n"
        f"       {PROG} apply MODEL IMAGE-OR-FOLDER... --out DIR\n\n"
        "Which city is this, and which streets gave it away: geospatial DL-SLICER.\n\n"
        f"verbs:\n{verbs}\n\n"
        f"{PROG} VERB --help says what a verb obeys. --debug shows tracebacks, --version the version."
    )


class _Parser(argparse.ArgumentParser):
    """Raises one sentence instead of printing usage and leaving."""

    def error(self, message: str) -> Any:
        raise ConfigError(f"{message}; see {self.prog} --help")


def _station(verb: str, words: list[str]) -> int:
    parser = _Parser(
        prog=f"{PROG} {verb}",
        usage=f"{PROG} {verb} EXPERIMENT.yaml [--section.key value ...] [--out RUN]",
        description=f"{VERBS[verb].does[0].upper()}{VERBS[verb].does[1:]}. Writes {VERBS[verb].writes}.",
        epilog=_keys_of(VERBS[verb].sections) if {"-h", "--help"} & set(words) else None,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("experiment", metavar="EXPERIMENT.yaml", help="the experiment file")
    parser.add_argument("--out", metavar="RUN", help="run folder (default runs/<experiment>)")
    parser.add_argument("--force", action="store_true", help="work even where nothing has changed")
    parser.add_argument("--print_config", action="store_true", help="print the resolved configuration and stop")
    if verb == "run":
        parser.add_argument("--from", dest="start", metavar="STATION", help="begin at this station, and force it")
    known, overrides = parser.parse_known_args(words)

    from dlslicer_geo import config, pipeline

    experiment = config.load(known.experiment, overrides)
    if known.print_config:
        print(config.dump(experiment), end="")
        return 0
    out = Path(known.out) if known.out else Path("runs") / _name_of(Path(known.experiment))
    begin = time.monotonic()
    with _Bars() as bars:
        if verb != "run":
            done = pipeline.run(experiment, out, stations=(verb,), force=known.force, progress=bars.track)
        else:
            done = _run_all(experiment, out, known, bars)
    print(_last_screen(done, time.monotonic() - begin))
    return 0


def _run_all(experiment: Any, out: Path, known: argparse.Namespace, bars: _Bars) -> Run:
    from dlslicer_geo import pipeline

    if known.start is None:
        return pipeline.run(experiment, out, force=known.force, progress=bars.track)
    if known.start not in pipeline.VERBS:
        raise ConfigError(f"--from {known.start} is no station; known ones are {', '.join(pipeline.VERBS)}")
    rest = pipeline.VERBS[pipeline.VERBS.index(known.start) :]
    return pipeline.run(experiment, out, stations=rest, force=True, progress=bars.track)


def _apply(words: list[str]) -> int:
    parser = _Parser(
        prog=f"{PROG} apply",
        usage=f"{PROG} apply MODEL IMAGE-OR-FOLDER... --out DIR",
        description="Use a trained model on new images: predictions, saliency and a map in one folder.\n"
        "The images need a position but no city; chips are cut as the model was trained, at half overlap.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("model", metavar="MODEL", help="a model.ckpt, or the run folder that holds it")
    parser.add_argument("images", metavar="IMAGE-OR-FOLDER", nargs="+", help="GeoTIFFs, or folders of them")
    parser.add_argument("--out", metavar="DIR", required=True, help="folder for everything that is made")
    parser.add_argument("--force", action="store_true", help="work even where nothing has changed")
    known = parser.parse_args(words)

    from dlslicer_geo import pipeline

    begin = time.monotonic()
    with _Bars() as bars:
        done = pipeline.apply(known.model, known.images, known.out, force=known.force, progress=bars.track)
    print(_last_screen(done, time.monotonic() - begin))
    return 0


def _doctor(words: list[str]) -> int:
    parser = _Parser(
        prog=f"{PROG} doctor",
        description="Check versions, GDAL, the torch/torchvision pair, devices, free disk and the demo's data.",
        allow_abbrev=False,
    )
    parser.add_argument("experiment", nargs="?", metavar="EXPERIMENT.yaml", help="look where this keeps its data")
    parser.add_argument("--data", metavar="DIR", help="folder with checksums.sha256 (default: the repository's data)")
    known = parser.parse_args(words)

    from dlslicer_geo.doctor import examine

    checks = examine(_data_folder(known.data, known.experiment))
    for check in checks:
        print(f"{check.state:<5}{check.name:<34}{check.found}")
    bad = [check.name for check in checks if check.state == "bad"]
    print(f"\n{len(bad)} problem(s): {', '.join(bad)}" if bad else "\nno problems")
    return 2 if bad else 0


def _data_folder(given: str | None, experiment: str | None) -> Path:
    if given:
        return Path(given)
    if experiment:
        from dlslicer_geo import config

        root = Path(config.load(experiment).data.root)
        return next((p for p in (root, *root.parents) if (p / "checksums.sha256").exists()), root)
    return Path(__file__).parents[1] / "data"


def _name_of(path: Path) -> str:
    return path.absolute().parent.name if path.stem == "config" else path.stem


def _keys_of(sections: Sequence[str]) -> str:
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


def _last_screen(done: Run, seconds: float) -> str:
    lines = [""]
    if not done.worked:
        lines += [f"Nothing to do: {done.folder} is up to date.", ""]
    if "score" in done.obeyed:
        lines += _scores(done.folder)
    shown = [
        ("map", "map.html", "open it in a browser"),
        ("GeoPackage", "gis/predictions.gpkg", "drag it into QGIS"),
        ("city rasters", "gis/city", "Cloud Optimized GeoTIFF"),
        ("saliency", "gis/saliency", "Cloud Optimized GeoTIFF"),
        ("gallery", "figures/gallery.png", "chip, heat map, masked chip"),
        ("confusion", "figures/confusion.png", "true city against predicted city"),
        ("certificate", "split_certificate.json", "proof that the splits share no ground"),
        ("model", "model.ckpt", f"{PROG} apply {done.folder} IMAGE.tif --out DIR"),
    ]
    there = [(what, done.folder / name, how) for what, name, how in shown if (done.folder / name).exists()]
    width = max((len(str(path)) for _, path, _ in there), default=0)
    lines += [f"  {what:<13}{path!s:<{width}}  {how}" for what, path, how in there]
    return "\n".join([*lines, "", f"{', '.join(done.worked) or 'nothing'} in {seconds:.0f} s"])


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
        lines.append(f"  {name.replace('_', ' '):<15}{values['accuracy']:.3f}")
    return [*lines, ""]


class _Bars:
    """Progress bars on a terminal, a line for every tenth otherwise."""

    def __init__(self) -> None:
        self.live: Any = None

    def __enter__(self) -> _Bars:
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


if __name__ == "__main__":
    sys.exit(main())
