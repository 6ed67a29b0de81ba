"""Mapbox Vector Tiles (specification 2.1) from arrays: no Python object for a vertex or a value.

In the order of the work: ``grid`` (tile units), ``parts`` (what meets the tile, cut at its edge),
``paths`` and ``polygons`` (whole units, thinned, valid), ``commands`` (geometry as integers),
``attributes`` (columns as indices into a table), ``layer`` (the bytes).
"""
