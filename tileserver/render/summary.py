"""What the attributes of features have in them, for styles that are made for the data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import pandas as pd

from tileserver.render import columns
from tileserver.render.columns import NULL, NUMBER
from tileserver.styles.parameters import MAX_CLASSES

_MAX_ATTRIBUTES: Final = 100


def summary(table: Mapping[str, pd.Series[Any]]) -> dict[str, dict[str, Any]]:
    """By attribute the ``range`` of its numbers, from the 2nd to the 98th percentile, or its distinct
    ``values`` as text where there are few: the commonest first, of equally common ones by their text. A
    blank text is no value: to styles, a missing one is the same."""
    found: dict[str, dict[str, Any]] = {}
    for name in list(table)[:_MAX_ATTRIBUTES]:
        values = columns.column(name, table[name])
        numbers = values.numbers[values.has(NUMBER)] if values.has(NUMBER).any() else np.empty(0)
        if len(numbers) and not (~values.has(NUMBER) & ~values.has(NULL)).any():
            found[name] = {"range": np.percentile(numbers, [2, 98]).tolist()}
            continue
        texts = columns.texts_of(values)[~values.has(NULL)]
        counted = pd.Series(texts[texts != ""]).value_counts()
        if 0 < len(counted) <= MAX_CLASSES:
            ordered = sorted(counted.items(), key=lambda pair: (-pair[1], str(pair[0])))
            found[name] = {"values": [str(value) for value, _ in ordered]}
    return found
