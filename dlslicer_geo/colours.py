"""Cities and numbers in, the colours they have in every layer, map and figure out."""

from __future__ import annotations

from collections.abc import Sequence

from dlslicer_geo.types import UNKNOWN

_COLOURS = """
    #e69f00 #56b4e9 #009e73 #f0e442 #0072b2 #d55e00 #cc79a7 #5d3a9b #880000 #66ffff #5588ff #44ddaa #775566 #662255
    #bb2211 #66ffaa #44ddff #77bb77 #cccc66 #33cccc #5599dd #886655 #664477 #4466dd #660077 #664444 #886688 #446622
    #dd6666 #00eedd #0088cc #ee7733 #6644bb #662233 #775588 #ffdd88 #ee88aa #11ccff #cc3344 #aa44aa #eebb00 #00aaff
    #66eebb #33aacc #77aa88
    """

PALETTE: tuple[str, ...] = tuple(_COLOURS.split())
"""45 colours. The first seven are Okabe and Ito's (Color Universal Design, 2008); each later one was taken as far as
possible, in OKLab and for normal, deuteranope and protanope vision alike, from all those before it."""

UNKNOWN_COLOUR = "#b8b8b8"
"""A neutral grey for what the model does not know. In OKLab it lies 0.117 from the nearest colour of the palette, and
0.033 for a deuteranope or protanope (two cities lie 0.047 apart at worst); so what can be hatched is hatched too."""

DIVERGING = (
    "#172971", "#284ecf", "#777df3", "#b9b4fa", "#eee2e6", "#fca592", "#e85b46", "#b8060f", "#660702",
)  # fmt: skip
"""Against … nothing … for: nine equal steps of CET-D1A, whose steps look equally large and which the colour-blind can
read (Kovesi, Good Colour Maps: How to Design Them, 2015)."""

CONFIDENCE = ("#f7fbff", "#c6dbef", "#6baed6", "#2171b5", "#08306b")
"""Low to high confidence (ColorBrewer Blues)."""

RIGHT, WRONG = "#0072b2", "#d55e00"
"""Answers that are right and wrong (Okabe and Ito 2008); what is unknown is grey and hatched."""

SPLITS = {"train": "#b9bfc6", "val": "#e69f00", "test": "#0072b2", "unused": "#ffffff"}
"""Colours of the splits."""


def city_colour(index: int) -> str:
    """The colour ``#rrggbb`` of a city by its place in the list of cities; after 45 the colours come again."""
    return PALETTE[index % len(PALETTE)]


def categories(cities: Sequence[str], *, unknown: bool) -> dict[str, str]:
    """Answer → its colour ``#rrggbb``, in the order of a legend.

    Args:
        cities: city codes in the order of the palette.
        unknown: whether the model can answer ``unknown``, which then comes last.
    """
    colours = {city: city_colour(index) for index, city in enumerate(cities)}
    return colours | ({UNKNOWN: UNKNOWN_COLOUR} if unknown else {})


def rgb(colour: str) -> tuple[int, int, int]:
    """The three bytes of ``#rrggbb``."""
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)
