"""Escaping of text, so that terminals, Markdown and spreadsheets show it literally."""

from __future__ import annotations

import re

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""Control characters of terminals and bidirectional text, except newline and tab."""

NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")

FORMULA = ("=", "+", "-", "@", "\t", "\n", "＝", "＋", "－", "＠")
"""The characters with which a cell starts if a spreadsheet evaluates it as a formula."""

MARKED = re.compile(r"[\\|*`~]|<(?=\S)|&(?=#?\w+;)|(?<=\])\(|(?<!\w)_|_(?!\w)")
"""Characters that are markup in Markdown or HTML."""


def terminal(text: str) -> str:
    """Return the text without terminal control characters."""
    return CONTROL.sub("", text)


def markdown(text: str) -> str:
    """Return the text as a cell of a Markdown table, on one line."""
    return "<br>".join(MARKED.sub(r"\\\g<0>", line) for line in text.splitlines())


def spreadsheet(value: object) -> object:
    """Return the value of a cell, with an apostrophe before text that would be a formula."""
    if not isinstance(value, str) or NUMBER.fullmatch(value):
        return value
    # a lone \r may be written without quotes, and readers do not preserve it
    text = value.replace("\r\n", "\n").replace("\r", "\n")
    return f"'{text}" if text.startswith(FORMULA) else text
