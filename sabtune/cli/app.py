"""The root command, `sabtune`, and how a command is added to it: with a group and examples."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, TypeVar

import typer
from rich.markup import escape
from typer.core import TyperCommand, TyperGroup, TyperOption

from sabtune import __version__
from sabtune.cli.former import present

SEARCH, RESULTS, COMPARE, CLUSTER, DATA = "Search", "Results", "Compare", "Cluster", "Data"
"""The groups of commands in the help of `sabtune`."""

PANELS = (SEARCH, RESULTS, COMPARE, CLUSTER, DATA)
"""The groups in the order in which the help shows them."""

COMPLETION_HELP = {
    "install_completion": "Install completion for your shell.",
    "show_completion": "Print the completion script of your shell.",
}
"""The help of the options that typer adds, each short enough for one line."""

F = TypeVar("F", bound=Callable[..., Any])


class Command(TyperCommand):
    """A command whose help is readable on a dark and on a light background."""

    def __init__(self, *arguments: Any, help: str | None = None, **options: Any):
        super().__init__(*arguments, help=help and unwrapped(help), **options)

    def format_help(self, ctx: typer.Context, formatter: Any) -> None:  # type: ignore[override]
        use_readable_colors()
        super().format_help(ctx, formatter)


class Group(TyperGroup):
    """A group of commands whose help is readable on a dark and on a light background."""

    def format_help(self, ctx: typer.Context, formatter: Any) -> None:  # type: ignore[override]
        use_readable_colors()
        super().format_help(ctx, formatter)


class InterruptedCommandError(BaseException):
    """A KeyboardInterrupt in a command. Typer would end the command without a word."""


class Root(Group):
    """The root command, which also accepts former names that its help doesn't list."""

    def invoke(self, ctx: typer.Context) -> Any:  # type: ignore[override]
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as interruption:
            raise InterruptedCommandError from interruption

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        return super().parse_args(ctx, present(args))

    def format_help(self, ctx: typer.Context, formatter: Any) -> None:  # type: ignore[override]
        for param in self.params:
            if isinstance(param, TyperOption) and param.name in COMPLETION_HELP:
                param.help = COMPLETION_HELP[param.name]
        super().format_help(ctx, formatter)

    def list_commands(self, ctx: typer.Context) -> list[str]:  # type: ignore[override]
        """Return the names of the commands by group."""
        return sorted(super().list_commands(ctx), key=self._group)

    def _group(self, name: str) -> int:
        panel = getattr(self.commands[name], "rich_help_panel", None)
        return PANELS.index(panel) if panel in PANELS else len(PANELS)


def unwrapped(text: str) -> str:
    """Return the paragraphs of a docstring without line breaks, which the terminal sets anew."""
    return "\n\n".join(" ".join(part.split()) for part in text.split("\n\n"))


def use_readable_colors() -> None:
    """Replace the colors of typer's help that are hard to read on a white background."""
    from typer import rich_utils

    rich_utils.STYLE_TYPES = rich_utils.STYLE_OPTION_ENVVAR = "dim"
    rich_utils.STYLE_USAGE = "bold"
    rich_utils.STYLE_HELPTEXT = ""


def examples(*pairs: tuple[str, str]) -> str:
    """Return the section of a command's help with examples: what each does, and its command line.

    A test runs each line through the parser.
    """
    lines = ["[bold]Examples[/bold]"]
    for purpose, line in pairs:
        lines += ["", f"  {escape(purpose)}", f"    {escape(line)}"]
    return "\n".join(lines)


def command(
    panel: str, *pairs: tuple[str, str], name: str | None = None, hidden: bool = False
) -> Callable[[F], F]:
    """Return a decorator that adds a function to the commands of `sabtune`.

    panel: The group of the command in the help.

    pairs: Examples, as `examples` takes them.
    """
    epilog = examples(*pairs) if pairs else None
    return app.command(name, cls=Command, rich_help_panel=panel, epilog=epilog, hidden=hidden)


app = typer.Typer(
    cls=Root,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Tune LSTMs with Sparse Attentive Backtracking: how sparse can the memory be?",
    epilog=examples(
        ("Run a study that takes minutes", "sabtune search search_spaces/copying_quick.py"),
        ("See what it found", "sabtune report copying_quick"),
        ("Browse its trials in MLflow", "sabtune ui"),
        ("Find out whether the result holds", "sabtune confirm copying_quick"),
    )
    + "\n\n  Each command has examples: sabtune COMMAND --help",
)


def _print_version(requested: bool) -> None:
    if requested:
        typer.echo(f"sabtune {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    pass
