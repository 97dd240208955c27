"""Saliency, chips and the windows of portraits in, one HTML page that loads nothing out."""

from __future__ import annotations

import base64
import io
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from html import escape
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dlslicer_geo import files
from dlslicer_geo.errors import LayerError
from dlslicer_geo.layers import panels, portrait
from dlslicer_geo.layers.panels import Pixels
from dlslicer_geo.types import Saliency

if TYPE_CHECKING:
    from pandas import DataFrame

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
"""What the page may load: nothing but what it carries, and no script at all."""

PANEL, WINDOW, SEAM = 128, 144, 2
"""Edges of a chip's pictures and of a portrait's in pixels, and the seam between two of them."""

QUALITY = 70
"""Of the WebP pictures, 0 to 100: at 70 the page of 45 cities with 10 chips and 10 windows each stays below 25 MB."""

Ints = NDArray[np.int64]


def write_gallery_page(
    path: str | Path,
    why: Saliency,
    images: Mapping[int, Pixels],
    *,
    captions: Mapping[int, str] | None = None,
    names: Mapping[str, str] | None = None,
    windows: DataFrame | None = None,
    provenance: Mapping[str, str] | None = None,
    title: str = "Why this city: a gallery",
) -> Path:
    """Write the gallery of all cities as one page without script or outside reference; see ``draw_gallery``.

    The same input gives the same bytes.

    Args:
        path: ends in ``.html``.
        why: raw relevance of the chips to show.
        images: uint8 (rows, cols, 3) per chip id, also of the chips of ``windows``.
        captions: lines beside a chip per chip id, such as ``true chico`` and ``predicted riverside, 0.93``.
        names: city names by code; may lack some.
        windows: what ``relevance.choose_windows`` gives; each city's are shown before its chips.
        provenance: names and values of where the page comes from (seed, versions, hashes).
        title: heading of the page.

    Raises:
        LayerError: if there is nothing to show, a chip has no image, or relevance is not finite.
    """
    panels.check(why, images)
    page = _Page(
        why=why, images=images, captions=captions or {}, names=names or {}, windows=_by_city(windows, images)
    )  # fmt: skip
    return files.write_text(path, page.html(title, provenance or {}))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Page:
    """What the parts of the page are made from; ``windows`` are the rows of each city, by rank."""

    why: Saliency
    images: Mapping[int, Pixels]
    captions: Mapping[int, str]
    names: Mapping[str, str]
    windows: Mapping[str, list[dict[Any, Any]]]

    def html(self, title: str, provenance: Mapping[str, str]) -> str:
        """The whole page."""
        cities = sorted({*self.why.city, *self.windows})
        style = (resources.files(__package__) / "gallery.css").read_text(encoding="utf-8")
        links = "".join(
            f'<li><a href="#city-{at}">{_escaped(self.name(city))}</a></li>' for at, city in enumerate(cities)
        )
        parts = [
            "<!doctype html>", '<html lang="en"><head><meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">',
            f"<title>{_escaped(title)}</title><style>:root{{--depths:{len(self.why.layers)}}}{style}</style></head><body>",
            f"<header><h1>{_escaped(title)}</h1>", *self._legend(),
            "<details><summary>What was explained, and how</summary>", _facts(self._origin() | dict(provenance)),
            f'</details></header><nav aria-label="Cities"><ul>{links}</ul></nav><main>',
            *(self._city(at, city) for at, city in enumerate(cities)), "</main></body></html>\n",
        ]  # fmt: skip
        return "\n".join(parts)

    def name(self, city: str) -> str:
        """How a city is called, with its code where that is something else."""
        known = self.names.get(city, city)
        return known if known == city else f"{known} ({city})"

    def _legend(self) -> Iterator[str]:
        """What the pictures and their colours mean."""
        other = self.why.rather_than
        against = f"for {self.name(other)} instead" if other else "against it"
        yield _image(panels.bar(240, 12), "Colour scale from blue-violet over grey to red", kind="key")
        yield _paragraph(
            f"Red marks what speaks for the city that is explained, blue-violet what speaks {against}; where the "
            "chip is plain grey, relevance is 0. A city and depth has one scale, ending at the 99th percentile of "
            "|S| over its chips and is stated above its column; depths and cities cannot be compared by colour."
        )
        yield _paragraph(
            "Beside each heat map is the masked image as published (Lee et al., Relevance-CAM, CVPR 2021): the "
            "pixels whose relevance is above the chip's mean + 1 σ. Depths go from fine (layer1) to coarse (layer4)."
        )

    def _origin(self) -> dict[str, str]:
        """What was explained and by which model."""
        why = self.why
        own = {"method": why.method, "depths": ", ".join(why.layers), "chips": f"{len(why):,}"}
        rather = {"rather than": self.name(why.rather_than)} if why.rather_than else {}
        return own | rather | {"input": f"{why.input_size} px"} | {str(key): str(v) for key, v in why.notes.items()}

    def _city(self, at: int, city: str) -> str:
        """The portrait and the chips of a city."""
        members = panels.members(self.why).get(city, np.zeros(0, np.int64))
        parts = [f'<section id="city-{at}"><h2>{_escaped(self.name(city))}</h2>', *self._portrait(city)]
        if len(members):
            parts += [
                f"<h3>{len(members)} chips explained as {_escaped(self.name(city))}</h3>",
                *self._chips(members),
            ]
        return "\n".join([*parts, "</section>"])

    def _portrait(self, city: str) -> Iterator[str]:
        rows = self.windows.get(city, [])
        if not rows:
            return
        yield f"<h3>The {len(rows)} windows with the most relevance, each beside its chip</h3>"
        yield '<ol class="windows">'
        for record in rows:
            image = self.images[record["chip_id"]]
            chip = portrait.outlined(record, panels.square(image, WINDOW))
            alt = f"Window {record['rank']}, and chip {record['chip_id']} around it"
            said = f"{record['rank']}. mean relevance {record['window_mean']:.3g}, {portrait.origin_of(record)}"
            pair = _beside(portrait.cut_out(record, image, WINDOW), chip)
            yield f"<li>{_image(pair, alt)}{_paragraph(said)}</li>"
        yield "</ol>"

    def _chips(self, members: Ints) -> Iterator[str]:
        scales = panels.limits(self.why, members)
        bar = panels.bar(PANEL, 1)
        heads = (
            f"<li><b>{_escaped(name)}</b>{_image(bar, '', height=10)}"
            f'<span class="ends"><span>{_number(-limit)}</span><span>0</span><span>{_number(limit)}</span></span>'
            "</li>"
            for name, limit in scales.items()
        )
        yield f'<ul class="scales" aria-label="Colour scales"><li class="first"><b>chip</b></li>{"".join(heads)}</ul>'
        yield from (self._chip(int(chip), scales) for chip in members)

    def _chip(self, chip: int, scales: Mapping[str, float]) -> str:
        """A chip, and for each depth its heat map beside its masked image."""
        number = int(self.why.chip_id[chip])
        picture = panels.square(self.images[number], PANEL)
        said = "\n".join([f"chip {number}", *self.captions.get(number, "").splitlines()])
        parts = [f'<article class="chip"><div>{_image(picture, f"Chip {number}")}<p>{_escaped(said)}</p></div>']
        for name, limit in scales.items():
            raw, relevance = self.why.maps[name][chip], panels.over(self.why, name, chip, PANEL)
            kept = panels.kept(relevance, (PANEL, PANEL)).mean()
            alt = (
                f"Chip {number} at {name}: relevance from {_number(float(raw.min()))} to "
                f"{_number(float(raw.max()))}, and its masked image with {kept:.0%} of the pixels"
            )
            pair = _beside(panels.heat(picture, relevance, limit), panels.masked(picture, relevance))
            parts.append(f"<figure>{_image(pair, alt)}<figcaption>{_escaped(name)}</figcaption></figure>")
        return "".join([*parts, "</article>"])


def _by_city(windows: DataFrame | None, images: Mapping[int, Pixels]) -> dict[str, list[dict[Any, Any]]]:
    """The rows of windows of every city, by rank."""
    found: dict[str, list[dict[Any, Any]]] = {}
    for record in [] if windows is None else windows.sort_values(["city", "rank"]).to_dict("records"):
        if record["chip_id"] not in images:
            raise LayerError(
                f"window {record['rank']} of {record['city']} is in chip {record['chip_id']}, which has "
                "no image: give it"
            )
        found.setdefault(str(record["city"]), []).append(record)
    return found


def _facts(pairs: Mapping[str, str]) -> str:
    """Names and values as a list."""
    cells = "".join(
        f"<div><dt>{_escaped(name.replace('_', ' '))}</dt><dd>{_escaped(value)}</dd></div>"
        for name, value in pairs.items()
    )
    return f'<dl class="facts">{cells}</dl>'


def _escaped(text: str) -> str:
    """A text from data as HTML: nothing in it is a tag, a control character or half of a character."""
    strange = {letter for letter in text if unicodedata.category(letter) in ("Cc", "Cs") and letter != "\n"}
    return escape(text.translate(dict.fromkeys(map(ord, strange), "\N{REPLACEMENT CHARACTER}")))


def _paragraph(text: str) -> str:
    return f"<p>{_escaped(text)}</p>"


def _number(value: float) -> str:
    return f"{value:.2g}".replace("-", "\N{MINUS SIGN}")


def _beside(left: Pixels, right: Pixels) -> Pixels:
    """Two pictures of one height with a white seam between them."""
    return np.concatenate([left, np.full((len(left), SEAM, 3), 255, np.uint8), right], axis=1)


def _image(pixels: Pixels, alt: str, *, kind: str = "", height: int | None = None) -> str:
    """A picture carried by the page as WebP; small scales without loss."""
    held = io.BytesIO()
    Image.fromarray(pixels).save(held, "WEBP", quality=QUALITY, lossless=len(pixels) <= 16, method=4)
    address = "data:image/webp;base64," + base64.b64encode(held.getvalue()).decode()
    shown = f' class="{kind}"' if kind else ""
    return (
        f'<img{shown} src="{address}" width="{pixels.shape[1]}" height="{height or pixels.shape[0]}" '
        f'alt="{_escaped(alt)}" decoding="async">'
    )
