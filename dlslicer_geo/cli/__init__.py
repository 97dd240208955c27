"""Command-line words in, one call and its sentences out; the only room that prints."""

from __future__ import annotations

import argparse
import ctypes
import logging
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlslicer_geo import __version__
from dlslicer_geo.cli.parser import Parser, name_of
from dlslicer_geo.cli.screen import Bars, last_screen
from dlslicer_geo.cli.verbs import PROG, VERBS, keys_of, overview
from dlslicer_geo.errors import ConfigError, DlslicerError

if TYPE_CHECKING:
    from dlslicer_geo.pipeline.runs import Run

_POSITIONAL = {"scan": "EXPERIMENT.yaml|IMAGES"}

APPLIED = ("data", "explain", "compute")
"""Sections whose keys ``apply`` obeys; the others are the model's."""

LAUNCHED = {"RANK", "SLURM_PROCID"}
"""Variables of the launchers that start several processes."""

CHECKED = 64
"""Chips that ``explain --check`` draws where the experiment does not say."""


LOST = "one of several processes has ended, which says why: start all of them again, what is finished stays"


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
    logging.getLogger("distributed").setLevel(logging.CRITICAL)  # its tracebacks would stand before the sentence
    try:
        return _dispatch(words)
    except DlslicerError as error:
        if debug:
            raise
        _let_the_first_speak()
        print(f"{PROG}: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        if debug or error.errno is None:  # of a library, about something else than a file
            raise
        _let_the_first_speak()
        print(f"{PROG}: {_of_file(error)}", file=sys.stderr)
        return 2
    except RuntimeError as error:
        if debug or not _of_others(error):
            raise
        _let_the_first_speak()
        print(f"{PROG}: {LOST}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        if _is_first():
            print(f"{PROG}: stopped; the same command goes on from here", file=sys.stderr)
        return 130


def _let_the_first_speak() -> None:
    """Of several processes each gets to know what is wrong with its words; one sentence is enough."""
    if LAUNCHED & os.environ.keys():  # what looks closer takes a second to load
        from dlslicer_geo.pipeline import ranks

        ranks.let_the_first_speak()


def _of_others(error: RuntimeError) -> bool:
    """Whether a connection between processes broke, as torch's back ends say it."""
    return bool(LAUNCHED & os.environ.keys()) and ("gloo" in str(error) or type(error).__name__.startswith("Dist"))


def _of_file(error: OSError) -> str:
    """What the system says of a file, and what is to be done."""
    what = f"{error.filename} cannot be used" if error.filename else "a file cannot be used"
    return f"{what} ({error.strerror}): mend that and run again; --debug says where it happened"


def _keep_freed_memory() -> None:
    """Let glibc keep what a network's layers free, instead of fetching zeroed pages for each: 1.2–1.8× on a CPU."""
    if platform.libc_ver()[0] == "glibc":
        mallopt, mmap_threshold, trim_threshold = ctypes.CDLL(None).mallopt, -3, -1  # names in malloc.h
        mallopt(mmap_threshold, 2**30)
        mallopt(trim_threshold, 2**31 - 1)


def _dispatch(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help"):
        print(overview())
        return 0
    if words[0] == "--version":
        print(f"{PROG} {__version__}")
        return 0
    verb, rest = words[0], words[1:]
    if verb not in VERBS:
        raise ConfigError(f"unknown verb {verb!r}; known ones are {', '.join(VERBS)}")
    from dlslicer_geo.cli import serving, studies

    handlers: dict[str, Callable[[list[str]], int]] = {
        "verify": studies.verify,
        "ablate": studies.ablate,
        "leave-city-out": studies.leave_city_out,
        "apply": _apply,
        "download": _download,
        "import-checkpoint": _import_checkpoint,
        "serve": serving.serve,
        "doctor": _doctor,
    }
    return handlers[verb](rest) if verb in handlers else _station(verb, rest)


def _station(verb: str, words: list[str]) -> int:
    known, overrides = _station_parser(verb, words).parse_with_overrides(words)

    from dlslicer_geo import config, pipeline

    if verb == "scan" and known.prepare:
        overrides = ["--data.prepare", "all", *overrides]
    if verb == "score" and known.against:
        overrides = ["--score.against", known.against, *overrides]
    bare = verb == "scan" and Path(known.experiment).suffix not in (".yaml", ".yml")
    experiment = (config.of_images if bare else config.load)(known.experiment, overrides)
    stations: tuple[str, ...] = (verb,)
    if verb == "explain" and known.check:
        stations = ("check", "score", "explain")
        if not experiment.check.chips:
            experiment = config.load(known.experiment, [*overrides, "--check.chips", str(CHECKED)])
    if known.print_config:
        print(config.dump(experiment), end="")
        return 0
    out = known.out or Path("runs") / name_of(known.experiment)
    begin = time.monotonic()
    with Bars() as bars:
        if verb != "run":
            done = pipeline.run(experiment, out, stations=stations, force=known.force, progress=bars.track)
        else:
            done = _run_all(experiment, out, known, bars)
    return _shown(done, time.monotonic() - begin, out)


def _shown(done: Run, seconds: float, out: str | Path) -> int:
    """Print the last screen; of several processes the first one does."""
    if _is_first():
        print(last_screen(done, seconds, out))
    return 0


def _is_first() -> bool:
    from dlslicer_geo.pipeline.ranks import rank_and_world

    return not rank_and_world()[0]


def _station_parser(verb: str, words: list[str]) -> Parser:
    parser = Parser(
        prog=f"{PROG} {verb}",
        usage=f"{PROG} {verb} {_POSITIONAL.get(verb, 'EXPERIMENT.yaml')} [--section.key value ...] [--out RUN]",
        description=f"{VERBS[verb].does[0].upper()}{VERBS[verb].does[1:]}. Writes {VERBS[verb].writes}.",
        epilog=keys_of(VERBS[verb].sections) if {"-h", "--help"} & set(words) else None,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    if verb == "scan":
        parser.add_argument("experiment", metavar="EXPERIMENT.yaml|IMAGES", help="the experiment file, or images")
        parser.add_argument("--prepare", action="store_true", help="write every scene as a tiled raster that is fast")
    else:
        parser.add_argument("experiment", metavar="EXPERIMENT.yaml", help="the experiment file")
    parser.add_argument("--out", metavar="RUN", help="run folder, or s3://bucket/run (default runs/<experiment>)")
    parser.add_argument("--force", action="store_true", help="work even where nothing has changed")
    parser.add_argument("--print_config", action="store_true", help="print the resolved configuration and stop")
    if "compute" in VERBS[verb].sections:
        parser.add_scheduler()
    if verb == "score":
        parser.add_argument("--against", metavar="OTHER", help="run folder of another model to compare with")
    if verb == "explain":
        parser.add_argument(
            "--check", action="store_true", help=f"first check all methods on {CHECKED} chips, or as check.chips says"
        )
    if verb == "run":
        parser.add_argument("--from", dest="start", metavar="STATION", help="begin at this station, and force it")
    return parser


def _run_all(experiment: Any, out: str | Path, known: argparse.Namespace, bars: Bars) -> Run:
    from dlslicer_geo import pipeline

    if known.start is None:
        return pipeline.run(experiment, out, force=known.force, progress=bars.track)
    if known.start not in pipeline.VERBS:
        raise ConfigError(f"--from {known.start} is no station; known ones are {', '.join(pipeline.VERBS)}")
    rest = pipeline.VERBS[pipeline.VERBS.index(known.start) :]
    return pipeline.run(experiment, out, stations=rest, force=True, progress=bars.track)


def _apply(words: list[str]) -> int:
    parser = Parser(
        prog=f"{PROG} apply",
        usage=f"{PROG} apply MODEL IMAGE-OR-FOLDER... --out DIR",
        description="Use a trained model on new images: predictions, saliency and a map in one folder.\n"
        "The images need a position but no city; chips are cut as the model was trained, at half overlap.\n"
        "--data.crs, --data.sidecar, --data.gsd_m and the other keys of `scan --help` say what images do not;\n"
        "--explain.method, --explain.polygons and the others of `explain --help` what is explained.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("model", metavar="MODEL", help="a model.ckpt, or the run folder that holds it")
    parser.add_argument("images", metavar="IMAGE-OR-FOLDER", nargs="+", help="images, folders, lists or addresses")
    parser.add_argument("--out", metavar="DIR", required=True, help="folder or address for what is made")
    parser.add_argument("--force", action="store_true", help="work even where nothing has changed")
    parser.add_scheduler()
    known, overrides = parser.parse_with_overrides(words)

    from dlslicer_geo import config, pipeline

    strange = [word for word in overrides if word.startswith("--") and word[2:].split(".")[0] not in APPLIED]
    if strange:
        raise ConfigError(
            f"{strange[0]} means nothing for apply, which obeys {', '.join(f'--{s}.*' for s in APPLIED)}"
        )
    said = config.of_images(known.images[0], ["--explain.chips", "predicted", *overrides])
    begin = time.monotonic()
    with Bars() as bars:
        done = pipeline.apply(
            known.model, known.images, known.out, reading=said.data, explain=said.explain, compute=said.compute,
            force=known.force, progress=bars.track,
        )  # fmt: skip
    return _shown(done, time.monotonic() - begin, known.out)


def _download(words: list[str]) -> int:
    parser = Parser(
        prog=f"{PROG} download",
        description="Fetch the 45 cities of DL-SLICER (16 GB) from the hub into DIR/raw; the same command goes on\n"
        "where it stopped. Every file is compared with the hub's checksum before it gets its name.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("what", metavar="WHAT", choices=["dl-slicer"], help="dl-slicer")
    parser.add_argument("--out", metavar="DIR", required=True, help="folder for the images")
    parser.add_argument("--city", metavar="CODE", action="append", default=[], help="only this city; may be repeated")
    parser.add_argument("--endpoint", metavar="URL", help="another hub than the public one")
    parser.add_argument("--revision", metavar="REV", default="main", help="another revision than main")
    known = parser.parse_args(words)

    from dlslicer_geo.download import download

    with Bars() as bars:
        done = download(
            known.what, Path(known.out), cities=known.city, endpoint=known.endpoint, revision=known.revision,
            progress=bars.track,
        )  # fmt: skip
    print(f"{done.files} files ({done.bytes / 1e9:.1f} GB) fetched, {done.skipped} were there: {known.out}/raw")
    return 0


def _import_checkpoint(words: list[str]) -> int:
    parser = Parser(
        prog=f"{PROG} import-checkpoint",
        description="Turn a checkpoint of the DL-SLICER authors (a pickled ResNet) into a model.ckpt for `apply`.\n"
        "Nothing in the file is run: what is not on a short list of network parts is refused by name.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("checkpoint", metavar="CHECKPOINT.pth", help="the authors' file")
    parser.add_argument("--out", metavar="DIR", required=True, help="folder for model.ckpt")
    parser.add_argument("--cities", metavar="CSV", help="list of cities in the order of the outputs (default the 45)")
    known = parser.parse_args(words)

    from dlslicer_geo.pipeline import import_checkpoint

    made = import_checkpoint(known.checkpoint, known.out, cities=known.cities)
    print(f"{made}\n\n{PROG} apply {known.out} IMAGES... --out DIR")
    return 0


def _doctor(words: list[str]) -> int:
    parser = Parser(
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
    return Path(__file__).parents[2] / "data"
