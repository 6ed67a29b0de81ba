"""Painting: flat geometry in pixels and a list of coats (``render/paint.py``), as a picture.

In the order of the work: ``shapes`` (what is painted), ``coats`` (how, and in which order), ``chosen``
(which parts of it), ``strokes`` (lines as outlines), ``cells`` (outlines as covered pixels), ``circles`` and
``discs`` (round symbols), ``blending`` (colours over one another). All is numpy: no object for a feature, no
library beside it, the same picture anywhere.
"""

from tileserver.render.ink.coats import painted as painted
from tileserver.render.ink.shapes import Paths as Paths
from tileserver.render.ink.shapes import Points as Points
from tileserver.render.ink.shapes import Shapes as Shapes
