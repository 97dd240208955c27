# make bench, or: python benchmarks/bench.py --out benchmarks
# Expected: about fifteen minutes of two cores; every line of results.md that asks for something has it reached.
"""Every figure that issue 6 asks for, as ratios of one run, into ``results.md`` and ``results.json``."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from rounds import Options, Theme

THEMES = {
    "reading": ("reading", ("random_order", "one_pass")),
    "preparing": ("preparing", ("preparing",)),
    "predicting": ("predicting", ("predicting",)),
    "memory": ("predicting", ("memory",)),
    "explaining": ("explaining", ("explaining", "overlapping")),
    "tables": ("tables", ()),
    "mapping": ("mapping", ("mapping",)),
    "startup": ("startup", ("startup",)),
}
"""The file of each theme, and its functions; ``tables.py --json`` writes what ``reporting.as_json`` gives itself."""

TOY_TABLES = (2000, 8000, 32000)
"""Chips of the tables at toy size."""

BLOCK_CACHE = "16"
"""MB of GDAL's block cache, below what a scene takes: blocks are read as in a run over many scenes."""


def main() -> None:
    """Measure the themes, each in a process of its own, and write the page."""
    asked = _parsed()
    options = Options(rounds=asked.rounds, quick=asked.quick, accelerator=asked.accelerator, chips=asked.chips)
    if asked.theme:
        asked.json.write_text(json.dumps(measured(asked.theme, options)), encoding="utf-8")
        return
    import reporting

    about = reporting.machine()
    when = f"{about['date']}, {options.rounds} rounds, commit {_commit()}"
    found = _earlier(asked.out)
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        for theme in asked.only:
            several = _apart(theme, asked, Path(folder))
            found[theme] = [one | {"measured": one.get("measured", when)} for one in several]
    themes = [theme for name in THEMES for theme in found.get(name, [])]
    page = reporting.page(themes, about)
    print(page)
    if asked.out:
        asked.out.mkdir(parents=True, exist_ok=True)
        (asked.out / "results.md").write_text(page, encoding="utf-8")
        (asked.out / "results.json").write_text(json.dumps({"about": about, "themes": found}, indent=1) + "\n")
    for line in reporting.missed(themes):
        print(f"not reached: {line}", file=sys.stderr)


def measured(theme: str, options: Options) -> list[dict[str, Any]]:
    """What ``reporting.as_json`` makes of a theme, measured in this process."""
    import reporting

    file, names = THEMES[theme]
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        works: list[Callable[[Path, Options], Theme]] = [getattr(import_module(file), name) for name in names]
        return [reporting.as_json(work(Path(folder), options)) for work in works]


def _earlier(out: Path | None) -> dict[str, list[dict[str, Any]]]:
    """What an earlier run found, which stays for the themes that are not asked for."""
    path = out / "results.json" if out else None
    return dict(json.loads(path.read_text(encoding="utf-8"))["themes"]) if path and path.exists() else {}


def _commit() -> str:
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    return subprocess.run(command, check=False, capture_output=True, text=True).stdout.strip() or "unknown"


def _parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="folder for results.md and results.json")
    parser.add_argument("--only", nargs="+", choices=THEMES, default=list(THEMES), help="themes")
    parser.add_argument("--rounds", type=int, default=5, help="rounds that count; one more warms up")
    parser.add_argument("--quick", action="store_true", help="toy sizes, to see that everything works")
    parser.add_argument("--accelerator", default="cpu", help="Lightning's name for the device of predicting")
    parser.add_argument("--chips", type=int, default=0, help="chips of predicting; 0 takes 361")
    parser.add_argument("--theme", choices=THEMES, help="measure one theme in this process, for --json")
    parser.add_argument("--json", type=Path, help="file for what --theme found")
    return parser.parse_args()


def _apart(theme: str, asked: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """Measure a theme in a process of its own, which has its own threads, memory and caches.

    All processes keep their bytecode in ``folder``, whatever the environment says: nobody measures the compiler.
    """
    told = folder / f"{theme}.json"
    options = ["--theme", theme, "--rounds", asked.rounds, "--chips", asked.chips, "--accelerator", asked.accelerator]
    command = [__file__, *options, *(["--quick"] if asked.quick else [])]
    if theme == "tables":  # has processes of its own for each size
        command = [Path(__file__).with_name("tables.py"), *(["--sizes", *TOY_TABLES] if asked.quick else [])]
    without = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    env = without | {"PYTHONPYCACHEPREFIX": str(folder / "bytecode"), "GDAL_CACHEMAX": BLOCK_CACHE}
    start = time.perf_counter()
    subprocess.run([sys.executable, *map(str, command), "--json", str(told)], check=True, stdout=sys.stderr, env=env)
    print(f"{theme}: {time.perf_counter() - start:.0f} s", file=sys.stderr)
    found: list[dict[str, Any]] = json.loads(told.read_text(encoding="utf-8"))
    return found


if __name__ == "__main__":
    main()
