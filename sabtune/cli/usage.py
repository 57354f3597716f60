"""What is said of a command whose words are wrong."""

from __future__ import annotations

import typer


def explanation(mistake: typer.TyperException) -> str:
    """Return one line: what is wrong with a command, the value, and where to read more.

    It is empty where the command's help was shown instead.
    """
    words = " ".join(mistake.format_message().split()).rstrip(".")
    if not words:
        return ""
    errors = getattr(mistake.__cause__, "errors", None)  # pydantic's: it converts the values
    if errors is not None:
        error = errors()[0]
        hint = words.partition(":")[0].removeprefix("Invalid value for ")
        message = error["msg"].replace("Input", "it", 1)
        words = f"{hint.strip(chr(39))} is {error['input']!r}: {message}"
    context = getattr(mistake, "ctx", None)
    return f"{words}; see {context.command_path if context else 'sabtune'} --help"
