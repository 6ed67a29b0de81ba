"""tileserver: Python functions served as map tiles and data."""

__version__ = "0.1.0"
