"""Optuna's tables in a store's database: opened to read without a change, or made and written."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import optuna
import sqlalchemy
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, RDBStorage
from sqlalchemy.exc import SQLAlchemyError

from sabtune import databases
from sabtune.errors import StoreError
from sabtune.storage import server
from sabtune.storage.store import Store
from sabtune.study.patience import make_patient

TABLES = {"studies", "study_user_attributes", "trials", "trial_user_attributes", "version_info"}
"""Of those that Optuna makes, the ones without which there is nothing to read."""

PRIVATE = ("_create_new_trial", "_get_trials", "_set_trial_param")
"""What Optuna's cache calls of a storage beside its public methods."""

Method = TypeVar("Method", bound=Callable[..., Any])


class Studies(RDBStorage):
    """Optuna's storage in a store. What its database refuses, and a value in it that can't be
    decoded, is a StoreError of one line.

    store: whose they are, to which the places of files that they record are relative.
    """

    def __init__(self, store: Store, url: str, **options: Any):
        self.store = store
        super().__init__(url.replace("{", "{{").replace("}", "}}"), **options)


def _told(method: Method, unreadable: tuple[type[Exception], ...] = ()) -> Method:
    """The method, in one line where the database fails or holds what is `unreadable`."""

    @functools.wraps(method)
    def telling(self: Studies, *arguments: Any, **named: Any) -> Any:
        try:
            return method(self, *arguments, **named)
        except (SQLAlchemyError, StorageInternalError) as problem:
            cause = problem.__cause__ if isinstance(problem, StorageInternalError) else problem
            store = self.store
            words = databases.failure(store.shown, cause or problem, store.optuna_url)
            raise StoreError(words) from problem
        except KeyError:  # Optuna's word for what isn't there
            raise
        except unreadable as problem:
            raise StoreError(unreadable_value(self.store.shown, problem)) from problem

    return telling  # type: ignore[return-value]


def unreadable_value(shown: str, problem: Exception, of: str = "a value") -> str:
    """Return what to say of a value that neither Optuna nor sabtune wrote."""
    words = (str(problem).strip() or type(problem).__name__).splitlines()[0]
    return (
        f"the database of {shown} holds {of} that can't be read ({type(problem).__name__}: "
        f"{words[:200]}): put a copy of it in its place, or give another --store"
    )


for _name in (*vars(BaseStorage), *PRIVATE):
    if _name.startswith(("get_", "_get_")):
        unreadable = (ValueError, LookupError, TypeError)
        setattr(Studies, _name, _told(getattr(RDBStorage, _name), unreadable))
    elif _name.startswith(("set_", "_set_", "create_", "_create_", "delete_")):
        setattr(Studies, _name, _told(getattr(RDBStorage, _name)))


make_patient(Studies)


def exists(store: Store) -> bool:
    """Whether the store has a database of studies; a file that is none counts as one, unless it is
    empty."""
    path = store.optuna_file
    if path is not None:
        return path.exists() and path.stat().st_size > 0
    with _named(store):
        url = store.optuna_url
        engine = sqlalchemy.create_engine(url, **server.engine_options(url))
        return server.opening(lambda: sqlalchemy.inspect(engine).has_table("studies"))


def reading(store: Store) -> Studies:
    """Open the store's database and change nothing in it or beside it.

    Raises StoreError, without the password, if it can't be reached, has no studies' tables, or if
    another Optuna has written it.
    """
    path, options = store.optuna_file, _options(store)
    options["skip_table_creation"] = True
    if path is None:
        if not exists(store):
            raise StoreError(f"{store.shown} has no studies yet: search one first")
        return _opened(store, store.optuna_url, options)
    store.existing()
    if not databases.tables(path) >= TABLES:
        raise StoreError(
            f"{path} is no database of sabtune's studies: give the folder of a store with --store"
        )
    return _opened(store, databases.read_only_url(path), options)


def writing(store: Store) -> Studies:
    """Open the store's database to write, and make its tables if it has none yet.

    However many processes do so at once, one makes them. Raises StoreError as `reading` does, and
    if the database is another program's.
    """
    path, options = store.optuna_file, _options(store)
    if path is None:
        with _named(store):
            return server.opening(lambda: _made_in_server(store, options))
    if not path.exists() or not path.stat().st_size:
        databases.make_file(path, lambda url: _opened(store, url, options).engine.dispose())
    held = databases.tables(path)
    if not held >= TABLES:
        raise StoreError(
            f"{path} holds tables of another program ({', '.join(sorted(held)[:3]) or 'none'} …): "
            "give a database of its own with --store"
        )
    return _opened(store, store.optuna_url, options)


def _options(store: Store) -> dict[str, Any]:
    """The arguments of the engine: SQLite's connections wait for a database that is held."""
    if store.optuna_file is not None:
        return {"engine_kwargs": {"connect_args": databases.patience()}}
    with _named(store):
        return {"engine_kwargs": server.engine_options(store.optuna_url)}


def _made_in_server(store: Store, options: dict[str, Any]) -> Studies:
    with databases.making(store.optuna_url):
        return Studies(store, store.optuna_url, **options)


def _opened(store: Store, url: str, options: dict[str, Any]) -> Studies:
    with _named(store):
        return server.opening(lambda: Studies(store, url, **options))


@contextmanager
def _named(store: Store) -> Iterator[None]:
    """Tell what a database refuses by the store's name, without the password."""
    try:
        yield
    except (SQLAlchemyError, StorageInternalError, ImportError) as problem:
        words = problem.__cause__ if isinstance(problem, StorageInternalError) else problem
        said = databases.cause(words or problem, store.optuna_url)
        raise StoreError(
            f"the database of {store.shown} can't be used ({said}): "
            "give another --store, or see that it runs"
        ) from None
    except RuntimeError as problem:  # Optuna's, of its tables
        whose, remedy = "a newer", "update optuna"
        if "storage upgrade" in str(problem):
            whose, remedy = "an older", "back it up and run `optuna storage upgrade`"
        raise StoreError(
            f"the database of {store.shown} was made by {whose} Optuna than "
            f"{optuna.__version__}: {remedy}, or give another --store"
        ) from None
