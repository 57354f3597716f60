"""Text that stands for itself, in a terminal, in Markdown and in a spreadsheet."""

from __future__ import annotations

import re

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""What steers a terminal, or turns the order of what stands around it; not newline and tab."""

NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")

FORMULA = ("=", "+", "-", "@", "\t", "\n", "＝", "＋", "－", "＠")
"""What a cell begins with that a spreadsheet computes."""

MARKED = re.compile(r"[\\|*`~]|<(?=\S)|&(?=#?\w+;)|(?<=\])\(|(?<!\w)_|_(?!\w)")
"""What Markdown or HTML take for their own."""


def terminal(text: str) -> str:
    """Return the text without what would steer a terminal."""
    return CONTROL.sub("", text)


def markdown(text: str) -> str:
    """Return the text as a cell of a Markdown table, on one line."""
    return "<br>".join(MARKED.sub(r"\\\g<0>", line) for line in text.splitlines())


def spreadsheet(value: object) -> object:
    """Return the value of a cell, with an apostrophe before a text that would be a formula."""
    if not isinstance(value, str) or NUMBER.fullmatch(value):
        return value
    text = value.replace("\r\n", "\n").replace("\r", "\n")  # no reader quotes or keeps a lone \r
    return f"'{text}" if text.startswith(FORMULA) else text
