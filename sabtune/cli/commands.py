"""Commands of ours as a person types them: complete, on one line, quoted for a shell."""

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

FROM = "SABTUNE_FROM"
"""Set in a job of a cluster's head: the --cluster that it was started with, elsewhere."""

STUDY_FILE = "SABTUNE_STUDY_FILE"
"""Likewise: the study file's path there."""

Value = str | int | float | bool | Path | None
Values = Mapping[str, Value]


def where_of(
    store: str, files: str | None, tracking: str | None = None, data_dir: Path | None = None
) -> Values:
    """The values of the options that lead to the same store and data again; no password."""
    return {
        "store": None if store == str(DEFAULT) else without_secrets(store),
        "files": files and without_secrets(files),
        "tracking": tracking and without_secrets(tracking),
        "data_dir": data_dir,
        "cluster": os.environ.get(FROM),
    }


def typed(name: str, *arguments: object, where: Values, **options: Value) -> str:
    """What to type for a command, as the command itself is declared.

    where: values of options by the names of their parameters; those that the command doesn't have
    are left out. options: those that it must have. None and False stand for an option not given.
    """
    flags = {of.name: of.opts[0] for of in _parameters(name) if of.param_type_name == "option"}
    values = options | {key: value for key, value in where.items() if key in flags}
    words = [word for key, value in values.items() for word in _words(flags[key], value)]
    given = [str(argument) for argument in arguments]
    if any(argument.startswith("-") for argument in given):
        line = [name, *words, "--", *given]
    else:
        line = [name, *given, *words]
    return " ".join([program(), *map(quoted, line)])


@cache
def _parameters(name: str) -> list[typer.core.TyperOption | typer.core.TyperArgument]:
    group = typer.main.get_group(app)
    return group.commands[name].params  # type: ignore[return-value]


def _words(flag: str, value: Value) -> Iterator[str]:
    if value is None or value is False or value == "":
        return
    if value is True:
        yield flag
    elif str(value).startswith("-"):
        yield f"{flag}={value}"
    else:
        yield from (flag, str(value))


def quoted(word: str) -> str:
    """The word as a shell reads it back; by its bytes where a terminal wouldn't show it."""
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
    """How sabtune was called, quoted; on a cluster's head, how it is called from elsewhere."""
    called = Path(sys.argv[0])
    if FROM in os.environ:
        return "sabtune"
    if called.name != "sabtune":
        return f"{quoted(_python())} -m sabtune"
    found = shutil.which("sabtune")
    same = found is not None and called.exists() and Path(found).samefile(called)
    return "sabtune" if same or not called.exists() else quoted(os.path.relpath(called))


def _python() -> str:
    """The interpreter as it was typed, unless `python` is the same one."""
    found = shutil.which("python")
    same = found is not None and Path(found).absolute() == Path(sys.executable).absolute()
    return "python" if same else sys.executable or "python"
