"""The names of a source's columns."""

from __future__ import annotations

from collections import Counter

import pandas as pd

from esteira.data.sources.errors import DataError


def once(rows: pd.DataFrame, where: str) -> pd.DataFrame:
    """The rows, where no two columns have one name."""
    counts = Counter(str(name).casefold() for name in rows.columns)  # a table does not tell A from a
    twice = [str(name) for name in rows.columns if counts[str(name).casefold()] > 1]
    if twice:
        raise DataError(
            f"{where}: the column {twice[0]!r} is there {counts[twice[0].casefold()]} times; rename or remove one"
        )
    return rows
