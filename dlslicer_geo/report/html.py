"""Texts, tables and drawings in, pieces of HTML out; everything that is text is escaped here."""

from __future__ import annotations

import base64
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawing:
    """A figure as the page shows it.

    Args:
        name: its file in the folder of figures.
        png: its bytes.
        width: of the page's own pixels.
        height: of the page's own pixels.
        alt: what it shows, for who cannot see it.
    """

    name: str
    png: bytes
    width: int
    height: int
    alt: str


def section(anchor: str, title: str, *parts: str) -> str:
    """A part of the page with its heading."""
    return f'<section id="{anchor}"><h2>{escape(title)}</h2>{"".join(parts)}</section>'


def heading(text: str) -> str:
    """A heading within a section."""
    return f"<h3>{escape(text)}</h3>"


def paragraph(text: str, *, kind: str = "") -> str:
    """A paragraph; ``kind`` is a class of the style sheet such as ``note``."""
    return f"<p{f' class={kind}' if kind else ''}>{escape(text)}</p>"


def absent(what: str, why: str) -> str:
    """What stands in the place of a part that this run does not have."""
    return paragraph(f"{what} is not shown: {why}.", kind="note")


def banner(title: str, text: str, *, kind: str) -> str:
    """A box that cannot be overlooked: ``leak`` or ``vague``."""
    return f'<div class="banner {kind}" role="note"><strong>{escape(title)}</strong> {escape(text)}</div>'


def facts(pairs: Iterable[tuple[str, str]], *, kind: str = "facts") -> str:
    """Pairs of a name and its value."""
    cells = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in pairs)
    return f'<dl class="{kind}">{cells}</dl>'


def bullets(texts: Iterable[str]) -> str:
    """A list."""
    return f"<ul>{''.join(f'<li>{escape(text)}</li>' for text in texts)}</ul>"


def table(
    caption: str,
    head: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    text: Collection[int] = (0,),
    kinds: Mapping[tuple[int, int], str] | None = None,
) -> str:
    """A table that scrolls by itself where the window is too small for it.

    Args:
        caption: what the table is about.
        head: a name per column.
        rows: as many values each.
        text: columns to be set flush left; the others are numbers.
        kinds: classes of the style sheet by row and column.
    """
    kinds = kinds or {}
    names = "".join(f'<th scope="col"{_left(at, text)}>{escape(name)}</th>' for at, name in enumerate(head))
    body = "".join(
        "<tr>"
        + "".join(
            f"<td{_left(at, text, kinds.get((number, at), ''))}>{escape(value)}</td>" for at, value in enumerate(row)
        )
        + "</tr>"
        for number, row in enumerate(rows)
    )
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(caption)}"><table><caption>'
        f"{escape(caption)}</caption><thead><tr>{names}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def picture(drawing: Drawing | None, caption: str = "") -> str:
    """A figure with its caption, carried by the page; nothing without a drawing."""
    if drawing is None:
        return ""
    address = "data:image/png;base64," + base64.b64encode(drawing.png).decode()
    said = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return (
        f'<figure><div class="scroll" tabindex="0" role="group" aria-label="{escape(drawing.name)}">'
        f'<img src="{address}" width="{drawing.width}" height="{drawing.height}" '
        f'style="min-width:{min(drawing.width, 620)}px" alt="{escape(drawing.alt)}"></div>{said}</figure>'
    )


def _left(at: int, text: Collection[int], kind: str = "") -> str:
    names = " ".join(name for name in ("left" if at in text else "", kind) if name)
    return f' class="{names}"' if " " in names else f" class={names}" if names else ""
