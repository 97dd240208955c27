"""The content of a map in, one HTML file without any outside reference out."""

from __future__ import annotations

import base64
import html
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import folium
from branca.element import Element, MacroElement
from jinja2 import Template
from xstatic.pkg import leaflet

from dlslicer_geo import files
from dlslicer_geo.webmap import ground

SCRIPTS = (
    "ground.js", "chips.js", "card.js", "layers.js", "legend.js", "panel.js", "search.js", "swipe.js", "basemaps.js",
    "map.js",
)  # fmt: skip
"""Scripts of every page, in the order they are read."""


class WebMap(folium.Map):
    """A folium map without tiles and without links to a content delivery network.

    Args:
        content: what the page shows, as :func:`dlslicer_geo.webmap.webmap` gathers it.
        scripts: text of further scripts, read before those of every page.
        beside: writes what is too large for the page into a folder, and gives the files.
    """

    default_js: list[tuple[str, str]] = []  # noqa: RUF012 - folium reads it from the class; the links are inlined here
    default_css: list[tuple[str, str]] = []  # noqa: RUF012 - likewise

    def __init__(
        self,
        content: dict[str, Any],
        *,
        scripts: Sequence[str] = (),
        beside: Callable[[Path], list[Path]] | None = None,
    ) -> None:
        super().__init__(tiles=None, zoom_control="topright", max_zoom=21, zoom_snap=0.25, attribution_control=False)
        self.title = str(content["title"])
        figure: Any = self.get_root()
        figure.title = html.escape(self.title)
        self._app, self._beside = _App(content, scripts), beside
        self.add_child(self._app)
        self._number()

    def save(self, outfile: str | os.PathLike[str], **kwargs: Any) -> list[Path]:  # type: ignore[override]  # no open files
        """Write the page atomically, and what is too large for it into the folder ``map`` beside it.

        The same layers give the same bytes. Links to imagery are relative to the page.

        Args:
            outfile: ends in ``.html``.
            kwargs: passed to the templates, as folium does.

        Returns:
            the page first, then what lies beside it.
        """
        path = Path(outfile)
        self._number()
        self._app.folder = path.absolute().parent
        written = self._beside(path.parent / "map") if self._beside else []
        return [files.write_text(path, self.get_root().render(**kwargs)), *written]

    def _number(self) -> None:
        # folium names its elements at random
        for number, element in enumerate(_walk(self)):
            element._id = str(number)


def policy(content: dict[str, Any]) -> str:
    """What the page may load: what it carries, tiles of the basemaps it offers, and tiles beside it if it has any."""
    images = ["data:", *ground.hosts(content["basemaps"])]
    rules = ["default-src 'none'", "style-src 'unsafe-inline'", "script-src 'unsafe-inline'", "base-uri 'none'"]
    if content["tiles"]:
        images.append("blob:")
        rules.append("connect-src 'self'")
    return "; ".join([*rules, f"img-src {' '.join(images)}"])


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
        <script type="application/json" id="dl-data">{{ this.data() }}</script>
        <main id="dl-panel"></main>
        {% endmacro %}
        {% macro script(this, kwargs) %}
        {{ this.js }}
        dlslicerMap({{ this._parent.get_name() }}, JSON.parse(document.getElementById("dl-data").textContent));
        {% endmacro %}
        """
    )

    def __init__(self, content: dict[str, Any], scripts: Sequence[str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._name = "DlslicerMap"
        self.content, self.folder = content, Path.cwd()
        own = resources.files(__package__)
        self.policy = policy(content)
        self.css = (own / "map.css").read_text(encoding="utf-8")
        names = (*SCRIPTS[:-1], "imagery.js", "tiles.js", SCRIPTS[-1]) if content["tiles"] else SCRIPTS
        self.js = "\n".join([*scripts, *((own / name).read_text(encoding="utf-8") for name in names)])
        folder = Path(leaflet.BASE_DIR)
        script = (folder / "leaflet.js").read_text(encoding="utf-8")
        self.leaflet_js = re.sub(r"//# sourceMappingURL=\S+", "", script)
        self.leaflet_css = _inline_images((folder / "leaflet.css").read_text(encoding="utf-8"), folder)

    def data(self) -> str:
        """The content as JSON that stands safely in a script element."""
        facts = {
            name: {key: value for key, value in scene.items() if key != "path"}
            | {"href": _href(scene["path"], self.folder)}
            for name, scene in self.content["scenes"].items()
        }
        return _script_safe(json.dumps(self.content | {"scenes": facts}, ensure_ascii=False, separators=(",", ":")))


def _href(path: str | None, folder: Path) -> str | None:
    """A link that a browser can follow; None for an address that only GDAL reads, or that may hold a secret."""
    if path is None or path.startswith("/vsi"):
        return None
    if "://" in path:
        address = urlsplit(path)
        public = address.scheme in ("http", "https") and not address.query and "@" not in address.netloc
        return path if public else None
    try:
        return quote(Path(os.path.relpath(path, folder)).as_posix())
    except ValueError:  # another drive
        return None


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
