"""Sources: the rows that they hold for some days, with their time. What can't be used is refused by name."""

from esteira.data.sources.looking import last_day, look
from esteira.data.sources.python import call, function
from esteira.data.sources.reading import batches, read, rows_of
from esteira.data.sources.times import days, event_time

__all__ = [
    "batches",
    "call",
    "days",
    "event_time",
    "function",
    "last_day",
    "look",
    "read",
    "rows_of",
]
