"""Former names of commands and options, as in version 0.1."""

from __future__ import annotations

import typer

COMMANDS = {"climb": "extrapolate"}
"""The present name of each renamed command."""

OPTIONS = {"search": {"--rival": "--baseline"}}
"""The present name of each renamed option, by command."""


def present(arguments: list[str]) -> list[str]:
    """Return the arguments with present names for former ones, and print each replacement."""
    command, *given = arguments or [""]
    replaced = {}
    if command in COMMANDS:
        replaced[command] = COMMANDS[command]
        command = COMMANDS[command]
    options, end = OPTIONS.get(command, {}), len(given)
    if "--" in given:
        end = given.index("--")
    for index, word in enumerate(given[:end]):
        name, equals, value = word.partition("=")
        if name in options:
            replaced[name] = options[name]
            given[index] = options[name] + equals + value
    for former, current in replaced.items():
        typer.echo(f"sabtune: {former} is now {current}", err=True)
    return [command, *given] if arguments else []
