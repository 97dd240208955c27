"""The scene table with pairs, thumbnails and rejected files in, one self-contained ``scenes.html`` out."""

from __future__ import annotations

import base64
import io
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dlslicer_geo import files
from dlslicer_geo.scenes.review.alike import area_m2
from dlslicer_geo.scenes.review.findings import Finding, Item, area_text, findings
from dlslicer_geo.types import APPROXIMATE, ChipGrid

if TYPE_CHECKING:
    from geopandas import GeoDataFrame

    from dlslicer_geo.scenes.review.alike import Overlap, Pair

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
"""What the page may load: nothing but what it carries, and no script at all."""

CARDS = 2000
"""Cards at most; the table has the scenes that are left out."""

SHOWN, MORE = 6, 60  # items of a kind that are seen at once, and that can be unfolded
REJECTED = 500
PICTURES = 5 << 20  # characters of all thumbnails together
SIDE = 96  # pixels


def write_report(
    path: Path,
    scenes: GeoDataFrame,
    *,
    thumbnails: Mapping[str, NDArray[np.uint8]],
    duplicates: Sequence[Pair],
    overlaps: Sequence[Overlap],
    rejected: Sequence[Mapping[str, str]],
    grid: ChipGrid,
    title: str,
) -> Path:
    """Write what is known about scenes, and what to look at, as one page that loads nothing.

    The same input gives the same bytes. At most ``CARDS`` scenes get a card, those with findings first.

    Args:
        path: ends in ``.html``; written atomically.
        scenes: scene table, at least one row.
        thumbnails: scene id → (h, w, 3) uint8 RGB, no side above 96; may lack some.
        duplicates: what ``alike.duplicates`` found.
        overlaps: what ``alike.overlaps`` found.
        rejected: ``path`` and ``reason`` of files that are no scenes.
        grid: the chips that will be cut.
        title: heading of the page.
    """
    found = findings(scenes, duplicates=duplicates, overlaps=overlaps, grid=grid)
    flags = _flags(found, len(scenes))
    records = sorted(scenes.to_dict("records"), key=lambda record: _rank(record, flags))
    cards = {record["scene_id"]: number for number, record in enumerate(records[:CARDS])}
    style = (resources.files(__package__) / "report.css").read_text(encoding="utf-8")
    parts = [
        "<!doctype html>", '<html lang="en"><head><meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">',
        f"<title>{escape(title)}</title><style>{style}</style></head><body>",
        _head(scenes, title), _look(found, cards), _cards(records, flags, thumbnails), _left_out(rejected),
        "</body></html>\n",
    ]  # fmt: skip
    return files.write_text(path, "\n".join(parts))


def _flags(found: Sequence[Finding], number: int) -> dict[str, list[Finding]]:
    """The kinds in which a scene appears, the gravest first."""
    flags: dict[str, list[Finding]] = {}
    for finding in found:
        names = dict.fromkeys(name for item in finding.items for name in item.scenes)
        if finding.grave or 2 * len(names) <= number:  # what most scenes share tells none of them apart
            for name in names:
                flags.setdefault(name, []).append(finding)
    return flags


def _rank(record: Mapping[Any, Any], flags: Mapping[str, list[Finding]]) -> tuple[int, int, str]:
    mine = flags.get(record["scene_id"], [])
    return -sum(finding.grave for finding in mine), -len(mine), record["scene_id"]


def _head(scenes: GeoDataFrame, title: str) -> str:
    cities = scenes["city"].nunique()
    sites = len(set(zip(scenes["city"].fillna(""), scenes["site"], strict=True)))
    days = sorted(day for day in scenes["acquired"] if isinstance(day, str) and day)
    dates = "unknown" if not days else days[0] if days[0] == days[-1] else f"{days[0]} – {days[-1]}"
    low, high = float(scenes["gsd_m"].min()), float(scenes["gsd_m"].max())
    gsd = f"{low:.3g} m" if f"{low:.3g}" == f"{high:.3g}" else f"{low:.3g} – {high:.3g} m"
    facts = [
        (_count(len(scenes)), _noun("scene", len(scenes))),
        (_count(cities) if cities else "–", "cities" if cities != 1 else "city"),
        (_count(sites), _noun("site", sites)),
        (area_text(sum(area_m2(outline) for outline in scenes.geometry)), "of valid imagery"),
        (gsd, "per pixel on the ground"),
        (dates, "taken"),
    ]
    cells = "".join(f"<div><dd>{escape(value)}</dd><dt>{escape(name)}</dt></div>" for value, name in facts)
    return f"<header><h1>{escape(title)}</h1><dl>{cells}</dl>{_positions(scenes)}</header>"


def _positions(scenes: GeoDataFrame) -> str:
    kinds = Counter(str(kind) for kind in scenes["georef"]).most_common()
    spans = [
        f'<span class="{"vague" if kind in APPROXIMATE else "sure"}">{escape(kind)} <b>{_count(number)}</b></span>'
        for kind, number in kinds
    ]
    vague = sum(number for kind, number in kinds if kind in APPROXIMATE)
    warning = (
        f'<p class="warning">{_count(vague)} of {_count(len(scenes))} scenes lie only somewhere in their city. '
        "Nothing that follows from their exact place is claimed.</p>"
        if vague
        else ""
    )
    return f'<p class="kinds">Position from {" ".join(spans)}</p>{warning}'


def _look(found: Sequence[Finding], cards: Mapping[str, int]) -> str:
    if not found:
        return "<section><h2>What to look at</h2><p>Nothing: no rule of this page found anything.</p></section>"
    return f"<section><h2>What to look at</h2>{''.join(_finding(finding, cards) for finding in found)}</section>"


def _finding(finding: Finding, cards: Mapping[str, int]) -> str:
    number = len(finding.items)
    seen = "".join(_item(item, cards) for item in finding.items[:SHOWN])
    folded = "".join(_item(item, cards) for item in finding.items[SHOWN:MORE])
    rest = f"<li>and {_count(number - MORE)} more: see the table</li>" if number > MORE else ""
    more = (
        f"<details><summary>{_count(number - SHOWN)} more</summary><ul>{folded}{rest}</ul></details>"
        if number > SHOWN
        else ""
    )
    return (
        f'<article class="{"grave" if finding.grave else "note"}"><h3><b>{_count(number)}</b> {escape(finding.title)}'
        f"</h3><p>{escape(finding.rule)}</p><ul>{seen}</ul>{more}</article>"
    )


def _item(item: Item, cards: Mapping[str, int]) -> str:
    names = '<i aria-label="and">↔</i>'.join(_link(name, cards) for name in item.scenes)
    return f"<li><span>{names}</span> <small>{escape(item.text)}</small></li>"


def _link(name: str, cards: Mapping[str, int]) -> str:
    return f'<a href="#s{cards[name]}">{_breakable(name)}</a>' if name in cards else _breakable(name)


def _breakable(name: str) -> str:
    """A scene id that may go on in the next line after an underscore."""
    return escape(name).replace("_", "_<wbr>")


def _cards(
    records: Sequence[Mapping[Any, Any]],
    flags: Mapping[str, list[Finding]],
    thumbnails: Mapping[str, NDArray[np.uint8]],
) -> str:
    shown = records[:CARDS]
    pictures = list(_pictures(thumbnails.get(record["scene_id"]) for record in shown))
    cards = "".join(
        _card(number, record, flags.get(record["scene_id"], []), picture)
        for number, (record, picture) in enumerate(zip(shown, pictures, strict=True))
    )
    left = (
        f'<p class="left">{_count(len(records) - CARDS)} scenes without a card are left out here; the table has all '
        f"{_count(len(records))}.</p>"
        if len(records) > CARDS
        else ""
    )
    order = "<p>Scenes with something to look at come first.</p>" if flags else ""
    return f'<section><h2>Scenes</h2>{order}<div class="cards">{cards}</div>{left}</section>'


def _card(number: int, record: Mapping[Any, Any], flags: Sequence[Finding], picture: str) -> str:
    vague = record["georef"] in APPROXIMATE
    place = (_text(record["city_name"]) or _text(record["city"]), _text(record["site"]), _text(record["acquired"]))
    accuracy = record["accuracy_m"]
    known = accuracy is not None and accuracy == accuracy
    georef = f"{record['georef']}{f' ± {_metres(float(accuracy))}' if known else ''}"
    lines = [
        " · ".join(text for text in place if text),
        f"{record['width']} × {record['height']} px · {float(record['gsd_m']):.3g} m",
        f"{100 * float(record['valid_fraction']):.4g} % valid",
    ]  # fmt: skip
    prepared = _text(record.get("prepared"))
    lines += [f"written anew: {prepared}"] if prepared else []
    marks = "".join(f'<em class="{"grave" if flag.grave else "note"}">{escape(flag.flag)}</em>' for flag in flags)
    image = f'<img src="{picture}" alt="" decoding="async">' if picture else '<i class="blank">no picture</i>'
    about = "".join(f"<p>{escape(line)}</p>" for line in lines)
    return (
        f'<figure id="s{number}"{" class=vague" if vague else ""}>{image}<figcaption>'
        f'<h4>{_breakable(record["scene_id"])}</h4>{about}<p class="georef">{escape(georef)}</p>'
        f"<div>{marks}</div></figcaption></figure>"
    )


def _pictures(thumbnails: Iterable[NDArray[np.uint8] | None]) -> Iterator[str]:
    """Data addresses of thumbnails; empty where there is none or the page would become too large."""
    from PIL import Image

    left = PICTURES
    for thumbnail in thumbnails:
        if thumbnail is None or left <= 0:
            yield ""
            continue
        image = Image.fromarray(np.ascontiguousarray(thumbnail))
        image.thumbnail((SIDE, SIDE))
        held = io.BytesIO()
        image.save(held, "WEBP", quality=50, method=4)
        address = "data:image/webp;base64," + base64.b64encode(held.getvalue()).decode()
        left -= len(address)
        yield address if left >= 0 else ""


def _left_out(rejected: Sequence[Mapping[str, str]]) -> str:
    if not rejected:
        return ""
    rows = "".join(
        f"<tr><td>{escape(str(entry['path']))}</td><td>{escape(str(entry['reason']))}</td></tr>"
        for entry in rejected[:REJECTED]
    )
    rest = len(rejected) - REJECTED
    more = f"<p>and {_count(rest)} more, which the log names</p>" if rest > 0 else ""
    return (
        f"<section><h2>Files that are no scenes</h2><details{' open' if len(rejected) <= 20 else ''}><summary>"
        f"{_count(len(rejected))} {_noun('file', len(rejected))}</summary><table><thead><tr><th>File</th><th>Reason"
        f"</th></tr></thead><tbody>{rows}</tbody></table>{more}</details></section>"
    )


def _count(number: int) -> str:
    return f"{number:,}"


def _noun(word: str, number: int) -> str:
    return word if number == 1 else f"{word}s"


def _metres(value: float) -> str:
    return f"{value / 1000:.3g} km" if value >= 1000 else f"{value:.3g} m"


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None
