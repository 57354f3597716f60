"""Completions of a command's arguments, for the shell.

They are read without PyTorch, Optuna or SQLAlchemy, so that the shell doesn't wait for them.
Whatever can't be read completes to nothing.
"""

from __future__ import annotations

import ast
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import typer

from sabtune import databases
from sabtune.errors import SabtuneError
from sabtune.storage.store import DEFAULT, Store
from sabtune.study.series import ALL_BASELINES

BUSY_SECONDS = 0.2
"""The time that a completion waits for a database which a search is writing to."""


def study_names(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the studies that an argument may name: those of the store, the latest first.

    The studies of a cluster and of a database server aren't listed.
    """
    if ctx.params.get("cluster") is not None:
        return []
    given = ctx.params.get("studies") or ()
    names = _stored_names(str(ctx.params.get("store") or DEFAULT))
    return [name for name in names if name.startswith(incomplete) and name not in given]


def _stored_names(place: str) -> list[str]:
    if "://" in place:
        return []
    try:
        path = Store.at(place).root / "optuna.db"
        options: dict[str, Any] = {"timeout": BUSY_SECONDS, "factory": sqlite3.Connection}
        with closing(databases.connect_to_read(path, **options)) as database:
            rows = database.execute("SELECT study_name FROM studies ORDER BY study_id DESC")
            return [str(name) for (name,) in rows]
    except (SabtuneError, sqlite3.Error, OSError, ValueError, RuntimeError):
        return []


def baselines(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the names of the baselines that the study file of the command defines, and "all".

    The file isn't run: only names that it writes down are found.
    """
    path = ctx.params.get("path") or next(iter(ctx.args), "")  # before an option without its value
    try:
        tree = ast.parse(Path(str(path)).read_text())
    except (OSError, ValueError, SyntaxError):
        return []
    names = list(_keys(tree))
    names += [ALL_BASELINES] * bool(names)
    return [name for name in names if name.startswith(incomplete)]


def _keys(tree: ast.Module) -> Iterator[str]:
    """Yield the keys of the dicts that are assigned to BASELINES, or to its former name RIVALS."""
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else []
        if isinstance(node, ast.AnnAssign):
            targets = [node.target]
        names = {target.id for target in targets if isinstance(target, ast.Name)}
        if isinstance(node, ast.Assign | ast.AnnAssign) and names & {"BASELINES", "RIVALS"}:
            for key in getattr(node.value, "keys", []):
                if isinstance(key, ast.Constant):
                    yield str(key.value)


def data_sets(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the names of the data sets that an argument may name."""
    from sabtune.data.catalogue import DATA_SETS

    given = ctx.params.get("names") or ()
    return [name for name in DATA_SETS if name.startswith(incomplete) and name not in given]
