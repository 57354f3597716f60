"""Optuna's storage in the database of a store, opened read-only or to write."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import optuna
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage
from sqlalchemy.exc import SQLAlchemyError

from sabtune import databases
from sabtune.errors import StoreError
from sabtune.parts import local
from sabtune.schema import shown
from sabtune.storage import server
from sabtune.storage.store import Store
from sabtune.study.attributes import FORMAT, STORE_FORMAT
from sabtune.study.optuna_private import CACHED_METHODS, OWN_METHODS, BulkStorage
from sabtune.study.patience import make_patient

TABLES = ("studies", "study_user_attributes", "trials", "trial_user_attributes", "version_info")
"""The tables of Optuna that a readable database must have."""

optuna.logging.set_verbosity(optuna.logging.WARNING)  # sabtune shows the progress itself

Method = TypeVar("Method", bound=Callable[..., Any])


class Studies(BulkStorage):
    """Optuna's storage in the database of a store.

    Its methods raise StoreError, with a one-line message, if the database fails or holds a value
    that can't be decoded. Paths that a study records are relative to `store`.
    """

    def __init__(self, store: Store, url: str, **options: Any):
        self.store = store
        local.add_source(store.code)
        super().__init__(url.replace("{", "{{").replace("}", "}}"), **options)


def _raising_store_error(
    method: Method, decoding_errors: tuple[type[Exception], ...] = ()
) -> Method:
    """Wrap a method so that errors of the database, and decoding errors, become StoreError."""

    @functools.wraps(method)
    def wrapper(self: Studies, *args: Any, **kwargs: Any) -> Any:
        try:
            return method(self, *args, **kwargs)
        except (SQLAlchemyError, StorageInternalError) as problem:
            cause = problem.__cause__ if isinstance(problem, StorageInternalError) else problem
            store = self.store
            words = databases.failure(store.shown, cause or problem, store.optuna_url)
            raise StoreError(words) from problem
        except KeyError:  # Optuna raises it for a missing study or trial
            raise
        except decoding_errors as problem:
            raise StoreError(unreadable_value(self.store.shown, problem)) from problem

    return wrapper  # type: ignore[return-value]


def unreadable_value(store: str, problem: Exception, subject: str = "a value") -> str:
    """Return the message for a value that can't be read.

    store: the name of the store in messages. subject: the value, such as "trial 3".
    """
    words = (str(problem).strip() or type(problem).__name__).splitlines()[0]
    return (
        f"the database of {store} holds {subject} that can't be read ({type(problem).__name__}: "
        f"{words[:200]}): restore a backup of the database, or give another --store"
    )


for _name in (*vars(BaseStorage), *CACHED_METHODS, *OWN_METHODS):
    if _name.startswith(("get_", "_get_")):
        _decoding_errors = (ValueError, LookupError, TypeError)
        _method = _raising_store_error(getattr(Studies, _name), _decoding_errors)
        setattr(Studies, _name, _method)
    elif _name.startswith(("set_", "_set_", "create_", "_create_", "delete_")):
        setattr(Studies, _name, _raising_store_error(getattr(Studies, _name)))


make_patient(Studies)


def exists(store: Store) -> bool:
    """Return whether the store has a database of studies.

    Raises StoreError if the database can't be read, or a server can't be reached.
    """
    with _opening_errors(store):
        return store.found and store.optuna.is_made("studies")


def open_storage(store: Store, *, write: bool = False) -> Studies:
    """Open the database of a store.

    write: whether to open the database for writing too, and to create it if it doesn't exist.

    Raises StoreError if the database can't be used, or if a newer version of sabtune or an
    incompatible version of Optuna wrote it. The message doesn't contain the password.
    """
    storage = writing(store) if write else reading(store)
    formats = [study.user_attrs.get(FORMAT, 0) for study in storage.get_all_studies()]
    for version in formats:
        if not isinstance(version, int):
            raise StoreError(
                f"{store.shown} is damaged (a study has format {shown(version)}): "
                "restore a backup of it, or give another --store"
            )
    latest = max(formats, default=0)
    if latest > STORE_FORMAT:
        raise StoreError(
            f"{store.shown} was written by a newer sabtune (format {latest}; this version reads "
            f"up to format {STORE_FORMAT}): update sabtune, or give another --store"
        )
    return storage


def reading(store: Store) -> Studies:
    """Open the store's database read-only, without creating any file beside it.

    Raises StoreError if the database can't be reached, has no tables of studies, or was made by an
    incompatible version of Optuna. The message doesn't contain the password.
    """
    with _opening_errors(store):
        url = store.existing().optuna.url_to_read(TABLES)
        return server.opening(lambda: _open(store, url, skip_table_creation=True))


def writing(store: Store) -> Studies:
    """Open the store's database to write, and create its tables if it has none yet.

    Several processes may call this function at once; only one of them creates the tables. Raises
    StoreError as `reading` does, or if the database belongs to another program.
    """
    with _opening_errors(store):
        return store.optuna.make(lambda url: _open(store, url), TABLES)


def _open(store: Store, url: str, **options: Any) -> Studies:
    return Studies(store, url, engine_kwargs=store.optuna.engine_options(), **options)


@contextmanager
def _opening_errors(store: Store) -> Iterator[None]:
    """Convert errors that occur while a database is opened into StoreError.

    The message shows the store, but not its password.
    """
    try:
        yield
    except (SQLAlchemyError, StorageInternalError, ImportError) as problem:
        cause = problem.__cause__ if isinstance(problem, StorageInternalError) else problem
        words = databases.cause(cause or problem, store.optuna_url)
        raise StoreError(
            f"the database of {store.shown} can't be used ({words}): "
            "check that it runs, or give another --store"
        ) from None
    except RuntimeError as problem:  # Optuna raises it for tables of another version
        version, remedy = "a newer", "update optuna"
        if "storage upgrade" in str(problem):
            version, remedy = "an older", "back it up and run `optuna storage upgrade`"
        raise StoreError(
            f"the database of {store.shown} was made by {version} Optuna than "
            f"{optuna.__version__}: {remedy}, or give another --store"
        ) from None
