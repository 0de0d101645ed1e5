"""How numbers and days are written where a person reads them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date


def counted(number: int, word: str) -> str:
    """A number with its word: '1 day', '2 days', '1,000 rows'."""
    return f"{number:,} {word}" if number == 1 else f"{number:,} {word}s"


def better_by(gain: float) -> str:
    """A gain in a metric's own unit: 'better by 0.1', 'worse by 0.1'."""
    return f"{'worse' if gain < 0 else 'better'} by {abs(gain):.4g}"


def printable(text: str) -> str:
    """A text in which what can't be shown, or kept in a database, is escaped: NUL, half a character, a byte of a file's name."""
    return "".join(
        sign
        if sign.isprintable() or sign == "\n"
        else sign.encode("ascii", "backslashreplace").decode()
        if not sign.isascii()
        else f"\\x{ord(sign):02x}"
        for sign in text
    )


def said(error: object) -> str:
    """What an error says; where it can't say it, what it is."""
    try:
        return str(error)
    except Exception as other:  # whatever its own code does
        return f"{type(error).__name__}, which can't say what it is: its text raises {type(other).__name__}"


def ranges(days: Sequence[date]) -> str:
    """Days in order as spans: `2026-02-01 to 2026-02-14, 2026-02-20`."""
    found: list[list[date]] = []
    for day in days:
        if found and (day - found[-1][-1]).days == 1:
            found[-1].append(day)
        else:
            found.append([day])
    return ", ".join(f"{span[0]} to {span[-1]}" if len(span) > 1 else f"{span[0]}" for span in found)


def shown_days(days: Sequence[date]) -> str:
    """Days as a sentence names them: '2026-02-01', or '2026-02-01 and 2 more days'."""
    return f"{days[0]} and {counted(len(days) - 1, 'more day')}" if len(days) > 1 else str(days[0])
