"""The content of a map in, one HTML file without any outside reference out."""

from __future__ import annotations

import base64
import html
import json
import os
import re
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import folium
from branca.element import Element, MacroElement
from jinja2 import Template
from xstatic.pkg import leaflet

from dlslicer_geo import files

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
"""What the page may load: nothing but what it carries."""


class WebMap(folium.Map):
    """A folium map without tiles and without links to a content delivery network.

    Args:
        content: title, cities, places, sections and ramps, as :func:`dlslicer_geo.webmap.webmap` gathers them.
    """

    default_js: list[tuple[str, str]] = []  # noqa: RUF012 - folium reads it from the class; the links are inlined here
    default_css: list[tuple[str, str]] = []  # noqa: RUF012 - likewise

    def __init__(self, content: dict[str, Any]) -> None:
        super().__init__(tiles=None, zoom_control="topright", max_zoom=21, zoom_snap=0.25, attribution_control=False)
        self.title = str(content["title"])
        figure: Any = self.get_root()
        figure.title = html.escape(self.title)
        self.add_child(_App(content))
        self._number()

    def save(self, outfile: str | os.PathLike[str], **kwargs: Any) -> None:  # type: ignore[override]  # no open files
        """Write the page atomically; the same layers give the same bytes.

        Args:
            outfile: ends in ``.html``.
            kwargs: passed to the templates, as folium does.
        """
        self._number()
        files.write_text(Path(outfile), self.get_root().render(**kwargs))

    def _number(self) -> None:
        # folium names its elements at random
        for number, element in enumerate(_walk(self)):
            element._id = str(number)


class _App(MacroElement):
    """Leaflet, the style, the data and the script of the map, all inline."""

    _template = Template(
        """
        {% macro header(this, kwargs) %}
        <meta http-equiv="Content-Security-Policy" content="{{ this.policy }}">
        <link rel="icon" href="data:,">
        <style>{{ this.leaflet_css }}</style>
        <style>{{ this.css }}</style>
        <script>{{ this.leaflet_js }}</script>
        {% endmacro %}
        {% macro html(this, kwargs) %}
        <script type="application/json" id="dl-data">{{ this.data }}</script>
        <main id="dl-panel"></main>
        {% endmacro %}
        {% macro script(this, kwargs) %}
        {{ this.js }}
        dlslicerMap({{ this._parent.get_name() }}, JSON.parse(document.getElementById("dl-data").textContent));
        {% endmacro %}
        """
    )

    def __init__(self, content: dict[str, Any]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._name = "DlslicerMap"
        own = resources.files(__package__)
        self.policy = POLICY
        self.data = _script_safe(json.dumps(content, ensure_ascii=False, separators=(",", ":")))
        self.css = (own / "map.css").read_text(encoding="utf-8")
        self.js = "".join((own / name).read_text(encoding="utf-8") for name in ("ground.js", "map.js"))
        folder = Path(leaflet.BASE_DIR)
        script = (folder / "leaflet.js").read_text(encoding="utf-8")
        self.leaflet_js = re.sub(r"//# sourceMappingURL=\S+", "", script)
        self.leaflet_css = _inline_images((folder / "leaflet.css").read_text(encoding="utf-8"), folder)


def _walk(element: Element) -> Iterator[Element]:
    yield element
    for child in element._children.values():
        yield from _walk(child)


def _script_safe(text: str) -> str:
    """JSON that no name in the data can break out of, whatever characters it has."""
    escapes = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}
    return re.sub("[<>&\u2028\u2029]", lambda found: escapes[found[0]], text)


def _inline_images(css: str, folder: Path) -> str:
    def data_uri(found: re.Match[str]) -> str:
        data = base64.b64encode((folder / found[1]).read_bytes()).decode()
        return f"url(data:image/png;base64,{data})"

    return re.sub(r"url\((images/[^)]+)\)", data_uri, css)
