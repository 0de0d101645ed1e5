"""Sources: the rows that they hold for some days, with their time. What can't be used is refused by name."""

from esteira.data.sources.looking import last_day, look
from esteira.data.sources.python import call, function
from esteira.data.sources.reader import ALL, Share
from esteira.data.sources.reading import batches, read, reader_of, rows_of
from esteira.data.sources.times import as_times, days, event_time

__all__ = [
    "ALL",
    "Share",
    "as_times",
    "batches",
    "call",
    "days",
    "event_time",
    "function",
    "last_day",
    "look",
    "read",
    "reader_of",
    "rows_of",
]
