"""Command lines of sabtune that you can paste into a shell: complete, quoted, on one line."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import typer

from sabtune.cli.app import app
from sabtune.redaction import without_secrets
from sabtune.storage.store import DEFAULT

CLUSTER_VARIABLE = "SABTUNE_FROM"
"""The environment variable with the value of --cluster that a job on a cluster was started with."""

STUDY_FILE_VARIABLE = "SABTUNE_STUDY_FILE"
"""The environment variable with the path of a job's study file on the machine that started it."""

Value = str | int | float | bool | Path | None
Values = Mapping[str, Value]


def location_values(
    store: str, files: str | None, tracking: str | None = None, data_dir: Path | None = None
) -> Values:
    """Return the values of the options that select a store and data, without passwords."""
    return {
        "store": None if store == str(DEFAULT) else without_secrets(store),
        "files": files and without_secrets(files),
        "tracking": tracking and without_secrets(tracking),
        "data_dir": data_dir,
        "cluster": os.environ.get(CLUSTER_VARIABLE),
    }


def command_line(name: str, *arguments: object, where: Values, **options: Value) -> str:
    """Return the command line that runs a command with these arguments and options.

    where: Values of options, by parameter name. Options that the command doesn't have are left out.

    options: Further values, by parameter name. The command must have these options.

    An option with the value None, False or "" is left out.
    """
    parameters = _parameters(name)
    flags = {p.name: p.opts[0] for p in parameters if p.param_type_name == "option"}
    values = options | {key: value for key, value in where.items() if key in flags}
    words = [word for key, value in values.items() for word in _option_words(flags[key], value)]
    texts = [str(argument) for argument in arguments]
    if any(text.startswith("-") for text in texts):
        line = [name, *words, "--", *texts]
    else:
        line = [name, *texts, *words]
    return " ".join([program(), *map(quote, line)])


@cache
def _parameters(name: str) -> list[typer.core.TyperOption | typer.core.TyperArgument]:
    group = typer.main.get_group(app)
    return group.commands[name].params  # type: ignore[return-value]


def _option_words(flag: str, value: Value) -> Iterator[str]:
    if value is None or value is False or value == "":
        return
    if value is True:
        yield flag
    elif str(value).startswith("-"):
        yield f"{flag}={value}"
    else:
        yield from (flag, str(value))


def quote(word: str) -> str:
    """Return the word quoted for a shell; unprintable characters become escaped bytes."""
    if word.isprintable():
        return shlex.quote(word)
    escaped = (
        f"\\{letter}" if letter in "\\'"
        else letter if letter.isprintable()
        else "".join(f"\\x{byte:02x}" for byte in os.fsencode(letter))
        for letter in word
    )  # fmt: skip
    return f"$'{''.join(escaped)}'"


def program() -> str:
    """Return the quoted command that starts sabtune; in a job on a cluster, plain `sabtune`."""
    called = Path(sys.argv[0])
    if CLUSTER_VARIABLE in os.environ:
        return "sabtune"
    if called.name != "sabtune":
        return f"{quote(_python())} -m sabtune"
    on_path = shutil.which("sabtune")
    same = on_path is not None and called.exists() and Path(on_path).samefile(called)
    return "sabtune" if same or not called.exists() else quote(os.path.relpath(called))


def _python() -> str:
    """Return `python` if that is the running interpreter, else the interpreter's path."""
    on_path = shutil.which("python")
    same = on_path is not None and Path(on_path).absolute() == Path(sys.executable).absolute()
    return "python" if same else sys.executable or "python"
