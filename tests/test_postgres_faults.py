"""Test a PostgreSQL server that cuts connections, restarts or has no free connection."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import optuna
import pytest
import sqlalchemy
from optuna.trial import TrialState
from sqlalchemy.exc import OperationalError

from sabtune.errors import StoreError
from sabtune.storage import server as waiting
from sabtune.storage.database import SqliteFile
from sabtune.storage.store import Store
from sabtune.study import database_lock, patience
from sabtune.study.database_lock import DatabaseLock, TakenError
from sabtune.study.locks import locked
from sabtune.study.names import stored_names
from sabtune.study.optuna_private import BulkStorage
from sabtune.study.optuna_storage import open_storage
from sabtune.study.optuna_tables import Changes
from sabtune.study.write_behind import WriteBehind
from sabtune.study.writer import StudyWriter
from tests.faults import assert_as_unbroken, driver, records, study
from tests.forked import sabtune
from tests.test_postgres import Server, empty, server

__all__ = ["empty", "server"]

slowly = pytest.mark.slow


OURS = "application_name = 'sabtune' AND pid <> pg_backend_pid()"
TOUCH = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE "
LOCKS = "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted"


@pytest.fixture
def admin(server: Server) -> Iterator[sqlalchemy.Connection]:
    """Yield a separate connection for inspection."""
    engine = sqlalchemy.create_engine(server.url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        yield connection
    engine.dispose()


@pytest.fixture
def store(server: Server, tmp_path: Path) -> Store:
    return Store.at(server.url, tmp_path / "files").made()


def ask(connection: sqlalchemy.Connection, statement: str) -> list[Any]:
    return list(connection.execute(sqlalchemy.text(statement)))


def until_free(admin: sqlalchemy.Connection) -> None:
    """Wait until the server has released the lock of a dead connection."""
    until = time.monotonic() + 60
    while ask(admin, LOCKS):
        assert time.monotonic() < until
        time.sleep(0.05)


def opened(store: Store, name: str) -> optuna.Study:
    """Return the study, created if it doesn't exist."""
    storage = open_storage(store, write=True)
    return optuna.create_study(study_name=name, storage=storage, load_if_exists=True)


@slowly
def test_connections_are_few_and_reconnect(store: Store, admin: sqlalchemy.Connection) -> None:
    made = opened(store, "cut")
    for _ in range(3):
        stored_names(store)
        opened(store, "cut")
    assert (
        len(ask(admin, f"SELECT 1 FROM pg_stat_activity WHERE {OURS}")) <= waiting.POOL_CONNECTIONS
    )
    for number in range(3):
        ask(admin, TOUCH + OURS)
        assert made.ask().number == number
        ask(admin, TOUCH + OURS)
        made.tell(number, 0.5)
    assert [trial.value for trial in opened(store, "cut").get_trials()] == [0.5] * 3


@slowly
def test_a_write_waits_for_a_restarting_server(
    server: Server, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    made = opened(store, "restarted")
    trial = made.ask()
    server.stop()
    later = threading.Timer(4.0, server.start)
    later.start()
    trial.set_user_attr("kept", 1)
    later.join()
    assert made.ask().number == 1
    assert opened(store, "restarted").get_trials()[0].user_attrs == {"kept": 1}
    assert "The database doesn't answer: trying again for" in caplog.text


@slowly
def test_a_write_waits_for_a_free_connection(
    server: Server, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened(store, "full")
    waiting.pool(store.optuna_url).dispose()  # the next call needs a new connection
    engine = sqlalchemy.create_engine(server.url, poolclass=sqlalchemy.NullPool)
    held: list[sqlalchemy.Connection] = []
    with pytest.raises(OperationalError, match="too many clients"):
        held.extend(engine.connect() for _ in range(1000))
    with monkeypatch.context() as hasty:
        hasty.setattr(waiting, "OPENING_PAUSES_SECONDS", (0.1,))
        with pytest.raises(StoreError, match=r"^the database of \S+ can't be used .*too many"):
            stored_names(store)

    def close() -> None:
        for connection in held:
            connection.close()

    later = threading.Timer(2.0, close)
    later.start()
    assert "full" in stored_names(store)
    later.join()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Check the lock before every commit and not in the background."""
    monkeypatch.setattr(database_lock, "FRESH_SECONDS", 0.0)
    monkeypatch.setattr(database_lock, "PERIOD_SECONDS", 1000.0)


def claimed(lock: DatabaseLock | None, made: optuna.Study) -> list[str]:
    """Claim the study and return a list that gets an entry when the lock is lost."""
    told: list[str] = []
    assert lock is not None
    lock.claim(StudyWriter(made), lambda: told.append("lost"))
    return told


@slowly
@pytest.mark.usefixtures("quick")
def test_a_lock_is_taken_again_on_a_new_connection(
    store: Store, admin: sqlalchemy.Connection
) -> None:
    made = opened(store, "again")
    with locked("again", store) as lock:
        claimed(lock, made)
        ((before,),) = ask(admin, LOCKS)
        ask(admin, f"{TOUCH} pid = {before}")
        made.ask()
        ((after,),) = ask(admin, LOCKS)
        assert after != before
        assert lock is not None
        # Act as if the connection was lost in the network.
        hanging, lock._connection = (lock._connection, None)
        made.ask()
        ((last,),) = ask(admin, LOCKS)
        assert last != after
        assert hanging is not None
        hanging.invalidate()
    until_free(admin)
    made.ask()  # writing without the lock, like a report
    assert ask(admin, LOCKS) == []


@slowly
@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("gone", [False, True])
def test_nothing_is_written_after_another_search_took_the_study(
    store: Store, admin: sqlalchemy.Connection, gone: bool
) -> None:
    name = f"taken-{gone}"
    made, others = opened(store, name), Store.at(store.optuna_url, store.root / "other").made()
    with locked(name, store) as lock:
        claimed(lock, made)
        made.ask()
        ask(admin, f"{TOUCH} pid IN ({LOCKS})")
        with locked(name, others) as theirs:
            claimed(theirs, opened(others, name))
            if not gone:
                with pytest.raises(TakenError):
                    made.ask()
        with pytest.raises(TakenError):
            made.set_user_attr("written", True)
        assert lock is not None
        with pytest.raises(TakenError, match="is being searched by another process"):
            lock.check()
    read = opened(others, name)
    assert len(read.get_trials()) == 1
    assert "written" not in read.user_attrs


@slowly
def test_an_idle_search_notices_the_loss_of_its_lock(
    store: Store, admin: sqlalchemy.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_lock, "FRESH_SECONDS", 0.0)
    monkeypatch.setattr(database_lock, "PERIOD_SECONDS", 0.1)
    made = opened(store, "idle")
    with locked("idle", store) as lock:
        told = claimed(lock, made)
        assert lock is not None
        ((pid,),) = ask(admin, LOCKS)
        queued = threading.Thread(target=ask, args=(admin, f"SELECT pg_advisory_lock({lock.key})"))
        queued.start()  # the thread gets the lock as soon as the server frees it
        time.sleep(0.5)
        engine = sqlalchemy.create_engine(store.optuna_url, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            ask(connection, f"{TOUCH} pid = {pid}")
        queued.join()
        until = time.monotonic() + 60
        while not told:
            assert time.monotonic() < until
            time.sleep(0.05)
        engine.dispose()


@slowly
@pytest.mark.timeout(1700)
def test_a_search_survives_cut_connections_and_ends_if_another_takes_its_lock(
    server: Server, admin: sqlalchemy.Connection, tmp_path: Path
) -> None:
    file = study(tmp_path, "all-cut", ["plain"], updates=3000)
    where = ["--store", server.url, "--files", "files"]
    store = Store.at(server.url, tmp_path / "files")
    with driver("search", file, *where, cwd=tmp_path) as search:
        search.until("#0 90/3000 updates")
        ((cut,),) = ask(admin, LOCKS)
        assert ask(admin, TOUCH + OURS)
        # The search takes the lock again at the first write a second later.
        search.until(lambda: [pid for (pid,) in ask(admin, LOCKS) if pid != cut])
        ((pid,),) = ask(admin, LOCKS)
        key = "SELECT (classid::bigint << 32) | objid::bigint FROM pg_locks WHERE pid = "
        ((number,),) = ask(admin, f"{key} {pid} AND locktype = 'advisory'")
        engine = sqlalchemy.create_engine(server.url, isolation_level="AUTOCOMMIT")
        with engine.connect() as another:
            take = (another, f"SELECT pg_advisory_lock({number})")
            queued = threading.Thread(target=ask, args=take)
            queued.start()
            time.sleep(1.0)
            ask(admin, f"{TOUCH} pid = {pid}")
            queued.join()
            time.sleep(2 * database_lock.FRESH_SECONDS)
            before = [trial.scores for trial in records(store, "all-cut")]
            code = search.end()
            assert [trial.scores for trial in records(store, "all-cut")] == before
        engine.dispose()
        errors = search.errors
    (line,) = errors.splitlines()
    assert line.startswith("sabtune: study 'all-cut' in postgresql://anna:***@")
    assert "is being searched by another process" in line
    assert code == 2
    assert sabtune("search", file, *where, cwd=tmp_path).returncode == 0
    (trial,) = records(store, "all-cut")
    assert trial.state == TrialState.COMPLETE
    assert_as_unbroken(trial)


class Unheard(BulkStorage):
    """A storage that loses the answer of each operation once."""

    lost: ClassVar[set[str]] = set()

    def answer(self, name: str, result: Any) -> Any:
        if name not in self.lost:
            self.lost.add(name)
            raise OperationalError("COMMIT", None, Exception("server closed the connection"))
        return result

    def _create_new_trial(self, *arguments: Any, **named: Any) -> Any:
        return self.answer("create", super()._create_new_trial(*arguments, **named))

    def set_trial_state_values(self, trial_id: int, state: Any, values: Any = None) -> Any:
        result = super().set_trial_state_values(trial_id, state, values)
        return self.answer(f"state {state.name}", result)

    def set_trial_user_attr(self, *arguments: Any, **named: Any) -> None:
        super().set_trial_user_attr(*arguments, **named)
        self.answer("attribute", None)

    def set_changes(self, changes: Changes) -> None:
        super().set_changes(changes)
        self.answer("changes", None)


def test_a_write_whose_answer_is_lost_is_not_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SqliteFile, "is_shared", True)
    monkeypatch.setattr(waiting, "wait", lambda seconds: None)
    patience.make_patient(Unheard)
    storage = Unheard(f"sqlite:///{tmp_path / 'optuna.db'}")
    made = optuna.create_study(study_name="s", storage=storage)
    made.enqueue_trial({"x": 1})
    trial = made.ask()
    trial.suggest_int("x", 1, 2)
    trial.set_user_attr("a", 1)
    made.tell(trial, 0.5)
    assert Unheard.lost == {"create", "attribute", "state RUNNING", "state COMPLETE"}
    (frozen,) = made.get_trials()
    assert (frozen.number, frozen.value, frozen.params, frozen.user_attrs) == (
        (0, 0.5, {"x": 1}, {"a": 1})
    )

    study_id = storage.get_study_id_from_name("s")
    buffered = optuna.load_study(study_name="s", storage=WriteBehind(storage, study_id))
    Unheard.lost.clear()
    trial = buffered.ask()
    trial.suggest_int("x", 1, 1)
    trial.report(0.25, 1)
    buffered.tell(trial, 0.5)
    assert Unheard.lost == {"create", "changes"}
    first, second = made.get_trials()
    assert first == frozen
    assert (second.number, second.value, second.params, second.intermediate_values) == (
        (1, 0.5, {"x": 1}, {1: 0.25})
    )


def test_a_wrong_password_is_not_retried(monkeypatch: pytest.MonkeyPatch) -> None:
    paused: list[float] = []
    monkeypatch.setattr(waiting, "wait", paused.append)

    def fail() -> None:
        raise OperationalError("", None, Exception("password authentication failed for user x"))

    with pytest.raises(OperationalError):
        waiting.retried(fail)
    assert paused == []


def test_retries_end_if_the_server_stays_away(monkeypatch: pytest.MonkeyPatch) -> None:
    paused: list[float] = []
    monkeypatch.setattr(waiting, "wait", paused.append)

    def fail() -> None:
        raise OperationalError("", None, Exception("could not connect to server"))

    with pytest.raises(OperationalError):
        waiting.retried(fail)
    assert paused == list(waiting.PAUSES_SECONDS)
