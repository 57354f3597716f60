"""Error messages for commands with wrong arguments."""

from __future__ import annotations

import typer


def explanation(mistake: typer.TyperException) -> str:
    """Return one line that names the mistake, the value and the help to read.

    The line is empty if the help of the command was shown instead.
    """
    words = " ".join(mistake.format_message().split()).rstrip(".")
    if not words:
        return ""
    errors = getattr(mistake.__cause__, "errors", None)  # typer converts values with pydantic
    if errors is not None:
        error = errors()[0]
        hint = words.partition(":")[0].removeprefix("Invalid value for ")
        message = error["msg"].replace("Input", "it", 1)
        words = f"{hint.strip(chr(39))} is {error['input']!r}: {message}"
    context = getattr(mistake, "ctx", None)
    return f"{words}; see {context.command_path if context else 'sabtune'} --help"
