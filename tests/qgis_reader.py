"""What QGIS makes of a project or of layers: run by the system's Python, prints JSON, draws PNGs.

python3 qgis_reader.py project PROJECT.qgz [PICTURE.png [LEFT BOTTOM RIGHT TOP]]
python3 qgis_reader.py styles TABLE.gpkg
python3 qgis_reader.py raster RASTER.tif [PICTURE.png]
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")

from qgis.core import (  # type: ignore[import-not-found]
    QgsApplication,
    QgsLayerTreeGroup,
    QgsMapRendererParallelJob,
    QgsMapSettings,
    QgsProject,
    QgsRasterLayer,
    QgsRectangle,
    QgsVectorLayer,
)
from qgis.PyQt.QtCore import QSize  # type: ignore[import-not-found]
from qgis.PyQt.QtGui import QColor  # type: ignore[import-not-found]


def main(verb: str, path: str, *rest: str) -> None:
    application = QgsApplication([], False)
    application.initQgis()
    print(json.dumps({"project": project, "styles": styles, "raster": raster}[verb](path, *rest)))
    QgsProject.instance().clear()
    application.exitQgis()


def project(path: str, picture: str = "", *bounds: str) -> dict[str, Any]:
    opened = QgsProject.instance()
    said = opened.read(path)
    root = opened.layerTreeRoot()
    home = opened.viewSettings().defaultViewExtent()
    extent = QgsRectangle(*map(float, bounds)) if bounds else QgsRectangle(home)
    shown = [node.layer() for node in root.findLayers() if node.isVisible()]
    if picture:
        draw(shown, opened.crs(), extent, picture)
    return {
        "read": said,
        "title": opened.title(),
        "crs": opened.crs().authid(),
        "extent": [home.xMinimum(), home.yMinimum(), home.xMaximum(), home.yMaximum()],
        "tree": tree(root),
        "layers": [layer(node.layer()) | {"visible": node.isVisible()} for node in root.findLayers()],
    }


def styles(path: str) -> dict[str, Any]:
    table = QgsVectorLayer(f"{path}|layername=predictions", "chips", "ogr")
    number, ids, names, about, error = table.listStylesInDatabase()
    found = {}
    for key, name in zip(ids[:number], names[:number], strict=True):
        qml, _ = table.getStyleFromDatabase(key)
        fresh = QgsVectorLayer(f"{path}|layername=predictions", "chips", "ogr")
        said, done = fresh.loadNamedStyle(f"{path}|layername=predictions", True) if not qml else apply(fresh, qml)
        found[name] = {"loaded": done, "error": said} | layer(fresh)
    table.loadDefaultStyle()
    return {
        "names": names[:number],
        "about": about[:number],
        "error": error,
        "styles": found,
        "default": layer(table),
    }


def raster(path: str, picture: str = "") -> dict[str, Any]:
    opened = QgsRasterLayer(path, "alone")  # with its default style, as from the browser or by drag and drop
    if picture:
        draw([opened], opened.crs(), opened.extent(), picture)
    return layer(opened)


def apply(table: Any, qml: str) -> tuple[str, bool]:
    from qgis.PyQt.QtXml import QDomDocument  # type: ignore[import-not-found]

    document = QDomDocument()
    document.setContent(qml)
    done, said = table.importNamedStyle(document)
    return said, done


def tree(group: Any) -> list[Any]:
    return [
        [child.name(), child.isExpanded(), tree(child)] if isinstance(child, QgsLayerTreeGroup) else child.name()
        for child in group.children()
    ]


def layer(shown: Any) -> dict[str, Any]:
    extent = shown.extent()
    about = {
        "name": shown.name(),
        "valid": shown.isValid(),
        "source": shown.source(),
        "crs": shown.crs().authid(),
        "extent": [extent.xMinimum(), extent.yMinimum(), extent.xMaximum(), extent.yMaximum()],
        "renderer": shown.renderer().type(),
    }
    return about | (vector_style(shown) if isinstance(shown, QgsVectorLayer) else raster_style(shown))


def vector_style(shown: Any) -> dict[str, Any]:
    legend = {item.label(): symbol(item.symbol()) for item in shown.renderer().legendSymbolItems() if item.symbol()}
    feature = next(shown.getFeatures(), None)
    unsure = next(shown.getFeatures("\"answer\" = 'unknown'"), None) if "answer" in shown.fields().names() else None
    return {
        "legend": legend,
        "map_tip": tip(shown, feature),
        "unsure_map_tip": tip(shown, unsure) if unsure else "",
        "label": label(shown, feature),
        "unsure_label": label(shown, unsure) if unsure else "",
        "labels": shown.labelsEnabled(),
        "rows": shown.featureCount(),
    }


def tip(shown: Any, feature: Any) -> str:
    from qgis.core import QgsExpression, QgsExpressionContext, QgsExpressionContextUtils

    context = QgsExpressionContext(QgsExpressionContextUtils.globalProjectLayerScopes(shown))
    context.setFeature(feature)
    return str(QgsExpression.replaceExpressionText(shown.mapTipTemplate(), context))


def label(shown: Any, feature: Any) -> str:
    from qgis.core import QgsExpression, QgsExpressionContext, QgsExpressionContextUtils

    if not shown.labelsEnabled():
        return ""
    context = QgsExpressionContext(QgsExpressionContextUtils.globalProjectLayerScopes(shown))
    context.setFeature(feature)
    return str(QgsExpression(shown.labeling().settings().fieldName).evaluate(context))


def symbol(drawn: Any) -> list[str]:
    properties = drawn.symbolLayer(0).properties()
    return [drawn.color().name(), properties["style"], properties["outline_style"]]


def raster_style(shown: Any) -> dict[str, Any]:
    renderer = shown.renderer()
    about: dict[str, Any] = {"bands": [shown.bandName(band + 1) for band in range(shown.bandCount())]}
    if renderer.type() == "paletted":
        about["legend"] = {item.label: item.color.name() for item in renderer.classes()}
    if renderer.type() == "singlebandpseudocolor":
        items = renderer.shader().rasterShaderFunction().colorRampItemList()
        about |= {
            "band": renderer.band(),
            "legend": [[item.label, item.color.name(QColor.HexArgb)] for item in items],
        }
    return about


def draw(layers: list[Any], crs: Any, extent: Any, picture: str) -> None:
    settings = QgsMapSettings()
    settings.setLayers(layers)
    settings.setDestinationCrs(crs)
    settings.setExtent(extent)
    settings.setOutputSize(QSize(800, 600))
    settings.setBackgroundColor(QColor("white"))
    job = QgsMapRendererParallelJob(settings)
    job.start()
    job.waitForFinished()
    job.renderedImage().save(picture)


if __name__ == "__main__":
    main(*sys.argv[1:])
