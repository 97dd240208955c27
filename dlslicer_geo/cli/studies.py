"""Words after ``verify``, ``ablate`` and ``leave-city-out`` in, a table on the screen out."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlslicer_geo.cli.parser import Parser, name_of
from dlslicer_geo.cli.screen import Bars
from dlslicer_geo.cli.verbs import PROG, VERBS, keys_of

if TYPE_CHECKING:
    from pandas import DataFrame

    from dlslicer_geo.config import Config
    from dlslicer_geo.pipeline.checks import Verdict


def verify(words: list[str]) -> int:
    """``verify RUN``: 0 for a split that is proven and a certificate that is true, else 2."""
    parser = Parser(
        prog=f"{PROG} verify",
        description="Measure the split of a run again from scenes.parquet and chips.parquet alone, and compare with\n"
        "split_certificate.json. Exit code 0: proven, and the certificate is true; 2: not.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("run", metavar="RUN", help="run folder, or its address")
    known = parser.parse_args(words)

    from dlslicer_geo.pipeline.checks import CERTIFICATE, verify_run
    from dlslicer_geo.pipeline.mirror import mirrored

    begin = time.monotonic()
    with mirrored(known.run, only=("scenes.parquet", "chips.parquet", CERTIFICATE)) as folder:
        verdict = verify_run(folder)
    print("\n".join(_lines(verdict)))
    print(f"\n{known.run}: {_sentence(verdict)} ({time.monotonic() - begin:.1f} s)")
    return 0 if verdict.proven and verdict.sound else 2


def ablate(words: list[str]) -> int:
    """``ablate EXPERIMENT.yaml``."""
    parser = _study_parser("ablate")
    parser.add_argument(
        "--gap", metavar="METRES", type=float, action="append", default=[],
        help="gap between blocks; may be repeated (default 0, 500 and 1000)",
    )  # fmt: skip
    known, experiment, out = _parsed(parser, words)

    from dlslicer_geo.pipeline import studies
    from dlslicer_geo.pipeline.mirror import mirrored

    with Bars() as bars, mirrored(out, experiment.compute) as folder:
        table = studies.ablate(experiment, folder, gaps=tuple(known.gap) or studies.GAPS, progress=bars.track)
    return _shown(table, folder / "ablation.csv", folder / "figures" / "ablation.png")


def leave_city_out(words: list[str]) -> int:
    """``leave-city-out EXPERIMENT.yaml``."""
    _, experiment, out = _parsed(_study_parser("leave-city-out"), words)

    from dlslicer_geo.pipeline import studies
    from dlslicer_geo.pipeline.mirror import mirrored

    with Bars() as bars, mirrored(out, experiment.compute) as folder:
        table = studies.leave_city_out(experiment, folder, progress=bars.track)
    return _shown(table, folder / "leave_city_out.csv")


def _shown(table: DataFrame, *files: Path) -> int:
    """Print what a study found; of several processes the first one does."""
    from dlslicer_geo.pipeline.ranks import rank_and_world

    if not rank_and_world()[0]:
        print(table.to_string(index=False, float_format=lambda value: f"{value:.3f}"))
        print("\n" + "\n".join(f"  {file}" for file in files))
    return 0


def _study_parser(verb: str) -> Parser:
    does = VERBS[verb].does
    parser = Parser(
        prog=f"{PROG} {verb}",
        usage=f"{PROG} {verb} EXPERIMENT.yaml [--section.key value ...] [--out RUN]",
        description=f"{does[0].upper()}{does[1:]}. Writes {VERBS[verb].writes}.",
        epilog=keys_of(("split", "model", "fit")),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("experiment", metavar="EXPERIMENT.yaml", help="the experiment file")
    parser.add_argument("--out", metavar="RUN", help="run folder, or s3://bucket/run (default runs/<experiment>)")
    parser.add_scheduler()
    return parser


def _parsed(parser: Parser, words: list[str]) -> tuple[argparse.Namespace, Config, str | Path]:
    known, overrides = parser.parse_with_overrides(words)

    from dlslicer_geo import config

    out = known.out or Path("runs") / name_of(known.experiment)
    return known, config.load(known.experiment, overrides), out


def _lines(verdict: Verdict) -> list[str]:
    """A table of what was stated and what was found, then the worst pairs."""
    marks = {True: "ok", False: "DIFFERS", None: "–"}
    shown = [(row.what, _short(row.stated), _short(row.recomputed), marks[row.agrees]) for row in verdict.rows]
    shown = [("", "stated", "recomputed", ""), *shown]
    widths = [max(len(line[column]) for line in shown) for column in range(3)]
    lines = [
        "  ".join([*(text.ljust(width) for text, width in zip(line, widths, strict=False)), line[3]])
        for line in shown
    ]
    if len(verdict.leaks):
        lines += ["", verdict.leaks.to_string(index=False)]
    return lines


def _short(value: Any) -> str:
    text = "" if value is None else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 48 else f"{text[:45]}..."


def _sentence(verdict: Verdict) -> str:
    proven = "no two splits share a pixel, ground or an image" if verdict.proven else "the splits LEAK"
    sound = "and the certificate is true" if verdict.sound else "and the tables or the certificate are NOT TRUE"
    return f"{proven}, {sound}"
