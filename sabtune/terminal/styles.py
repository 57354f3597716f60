"""The colors of states and findings, the same in all output.

Only colors that are readable on a dark and on a light background are used. A console drops them if
it prints to a file, or if NO_COLOR is set.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from rich.text import Text

from sabtune.study.states import WORDS, WORDS_IN_A_SEARCH

STYLES: Mapping[str, str] = {
    "complete": "green",
    "pruned": "dim",
    "failed": "red",
    "running": "cyan",
    "resumed": "cyan",
    "searching": "cyan",
    "unfinished": "magenta",
    "interrupted": "magenta",
    "waiting": "dim",
    "pending": "dim",
    "succeeded": "green",
    "stopped": "magenta",
    "wrong": "red",
    "note": "magenta",
    "Nothing is wrong.": "green",
}
"""The style of each state of a trial, a study or a job, and of each kind of finding."""

_COUNTED = re.compile(rf"[\d,]+ (?:{'|'.join({*WORDS.values(), *WORDS_IN_A_SEARCH.values()})})\b")


def styled(word: str) -> Text:
    """Return a state or a kind of finding in its color. A state may have details after a comma."""
    return Text(word, style=STYLES.get(word.partition(",")[0], ""))


def with_colored_counts(line: str) -> Text:
    """Return a line in which the numbers of trials in each state, as in "2 failed", are colored."""
    text = Text(line)
    for match in _COUNTED.finditer(line):
        count, _, word = match[0].partition(" ")
        if count != "0":
            text.stylize(STYLES[word], *match.span())
    return text
