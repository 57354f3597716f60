"""Wording of counts in messages."""

from __future__ import annotations


def counted(count: int, noun: str) -> str:
    """Return a count with its noun, as in "1 trial" or "2,000 trials"."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")
