"""Commands and options by their names up to version 0.1."""

from __future__ import annotations

import typer
from typer.core import TyperGroup

COMMANDS = {"climb": "extrapolate"}
OPTIONS = {"search": {"--rival": "--baseline"}}
"""By command."""


class Commands(TyperGroup):
    """Accept former names, which no help shows, and say which names replace them."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        return super().parse_args(ctx, present(args))


def present(arguments: list[str]) -> list[str]:
    """Return the arguments by their present names, and print each former name once."""
    command, *given = arguments or [""]
    told = {}
    if command in COMMANDS:
        told[command] = COMMANDS[command]
        command = COMMANDS[command]
    options, end = OPTIONS.get(command, {}), len(given)
    if "--" in given:
        end = given.index("--")
    for index, word in enumerate(given[:end]):
        name, equals, value = word.partition("=")
        if name in options:
            told[name] = options[name]
            given[index] = options[name] + equals + value
    for before, now in told.items():
        typer.echo(f"sabtune: {before} is now {now}", err=True)
    return [command, *given] if arguments else []
