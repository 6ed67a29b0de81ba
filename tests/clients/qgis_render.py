"""Renders tiles with QGIS, run by the system's own Python: views as JSON on standard input, a PNG each.

Input: ``{"url": …, "vector": false, "folder": …, "views": [[z, x, y], …]}``, x and y in metres of EPSG:3857.
``source`` in the place of ``url`` is what QGIS knows a layer by.
A view is 512 pixels wide at the resolution of its zoom.
"""

import json
import os
import sys
from urllib.parse import quote

os.environ["QT_QPA_PLATFORM"] = "offscreen"

from qgis.core import (
    QgsApplication,
    QgsCoordinateReferenceSystem,
    QgsMapRendererParallelJob,
    QgsMapSettings,
    QgsRasterLayer,
    QgsRectangle,
    QgsVectorTileBasicRenderer,
    QgsVectorTileLayer,
)
from qgis.PyQt.QtCore import QSize

WORLD = 2 * 20037508.342789244

job = json.load(sys.stdin)
application = QgsApplication([], False)
application.initQgis()
address = quote(job.get("url", ""), safe=":/{}")
source = job.get("source", f"type=xyz&url={address}&zmin=0&zmax=18")
if job["vector"]:
    layer = QgsVectorTileLayer(source, "tiles")
    renderer = QgsVectorTileBasicRenderer()
    renderer.setStyles(QgsVectorTileBasicRenderer.simpleStyleWithRandomColors())
    layer.setRenderer(renderer)
else:
    layer = QgsRasterLayer(source, "tiles", "wms")
assert layer.isValid(), "QGIS takes no such layer"
for number, (z, x, y) in enumerate(job["views"]):
    half = 256 * WORLD / 256 / 2**z
    settings = QgsMapSettings()
    settings.setLayers([layer])
    settings.setDestinationCrs(QgsCoordinateReferenceSystem("EPSG:3857"))
    settings.setOutputSize(QSize(512, 512))
    settings.setOutputDpi(96)
    settings.setExtent(QgsRectangle(x - half, y - half, x + half, y + half))
    render = QgsMapRendererParallelJob(settings)
    render.start()
    render.waitForFinished()
    render.renderedImage().save(os.path.join(job["folder"], f"{number}.png"))
application.exitQgis()
