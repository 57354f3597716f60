"""Test stores: odd names, concurrent creation, moves, copies, damage and read-only access."""

from __future__ import annotations

import multiprocessing
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import optuna
import pytest
from mlflow import MlflowClient
from optuna.trial import TrialState
from typer.testing import CliRunner

from sabtune import cli, databases
from sabtune.cli.app import app
from sabtune.errors import SabtuneError, StoreError, TrackingError
from sabtune.storage.store import Store
from sabtune.study.locks import is_held, locked
from sabtune.study.names import stored_names
from sabtune.study.optuna_storage import open_storage
from sabtune.study.record import StudyRecord
from sabtune.study.writer import StudyWriter
from sabtune.tracking import database
from sabtune.tracking.mirror import sync
from tests.experiments import Place
from tests.stores import state, unpacked

assert cli

READING = (
    ("status", "old"),
    ("report", "old"),
    ("report", "old.confirm"),
    ("extrapolate", "old", "--lengths", "8", "--sequences", "2"),
    ("reproduce", "old", "0"),
)


def told(*arguments: object) -> tuple[int, str]:
    """Run a command; return its exit code and its output or its one-line error."""
    done = CliRunner().invoke(app, [str(word) for word in arguments])
    if isinstance(done.exception, SabtuneError):
        return 2, str(done.exception)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.output


# Names


@pytest.mark.parametrize("name", ["a b", "what?", "#1", "100%", "%20", "%3F", "ü", "{x}", "a@b:c"])
def test_a_store_stays_in_its_folder_whatever_its_name(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    store = Store.at(str(tmp_path / name)).made()
    opened = open_storage(store, write=True)
    optuna.create_study(study_name="one", storage=opened)
    assert stored_names(store) == ["one"]
    with sqlite3.connect(f"{(tmp_path / name / 'optuna.db').as_uri()}?mode=ro", uri=True) as found:
        assert found.execute("SELECT study_name FROM studies").fetchall() == [("one",)]
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(
    "place",
    [
        "",
        "sqlite://",
        "sqlite:///",
        "sqlite:///:memory:",
        "sqlite:///file::memory:?cache=shared&uri=true",
        "sqlite:///x.db?mode=memory&uri=true",
        "sqlite:x.db",
        "postgresql://",
        "postgresql://anna@host",
        "mysql://anna@host/x",
        "~nobody-of-that-name/store",
        "x" * 300,
    ],
)
def test_an_invalid_store_is_one_line(place: str) -> None:
    for command in (("status", "x"), ("report", "x"), ("sync", "x"), ("ui",)):
        code, line = told(*command, "--store", place)
        assert code == 2
        assert len(line.splitlines()) == 1
    with pytest.raises(StoreError):
        Store.at(place).made()


def test_a_database_has_a_relative_or_absolute_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    store = Store.at("sqlite:///mine/studies.db").made()
    assert store.optuna.file == tmp_path / "mine" / "studies.db"
    open_storage(store, write=True)
    monkeypatch.chdir("/")
    other = Store.at(f"sqlite:///{tmp_path / 'mine' / 'studies.db'}", tmp_path / "files")
    assert stored_names(other) == []
    with locked("x", store):  # studies are locked even if the rest of the store differs
        assert is_held("x", other)
        with (
            pytest.raises(StoreError, match="is being searched by another process"),
            locked("x", other),
        ):
            pass
    assert not is_held("x", other)


# Concurrent creation


def _make(root: str, start: multiprocessing.synchronize.Barrier, number: int) -> None:
    store = Store(Path(root))
    start.wait()
    opened = open_storage(store, write=True)
    optuna.create_study(study_name=f"study-{number}", storage=opened)
    database.make(store.mlflow_uri, store.artifacts)
    MlflowClient(store.mlflow_uri).create_experiment(f"study-{number}", store.artifacts)


def test_eight_processes_create_the_databases_of_a_store_at_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    start = context.Barrier(8)
    makers = [context.Process(target=_make, args=(str(tmp_path), start, at)) for at in range(8)]
    for maker in makers:
        maker.start()
    for maker in makers:
        maker.join()
    assert [maker.exitcode for maker in makers] == [0] * 8
    names = [f"study-{number}" for number in range(8)]
    assert sorted(stored_names(Store(tmp_path))) == names
    found = MlflowClient(Store(tmp_path).mlflow_uri).search_experiments()
    assert sorted(of.name for of in found) == ["Default", *names]
    assert not list(tmp_path.glob(".*.part"))


# Locked databases


def test_a_write_waits_for_a_locked_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(databases, "BUSY_NOTICE_SECONDS", 0.5)
    store = Store(tmp_path)
    study = optuna.create_study(study_name="x", storage=open_storage(store, write=True))
    holder = sqlite3.connect(tmp_path / "optuna.db", isolation_level=None, check_same_thread=False)
    holder.execute("BEGIN EXCLUSIVE")
    release = threading.Timer(3, lambda: holder.execute("ROLLBACK"))
    release.start()
    study.ask()
    assert not release.is_alive()
    release.join()
    holder.close()
    (begun,) = open_storage(store).get_all_studies()
    assert len(open_storage(store).get_all_trials(begun._study_id)) == 1
    (line,) = {of.getMessage() for of in caplog.records if of.name == "sabtune"}
    assert "Another program has locked the store's database" in line


def test_a_database_that_stays_locked_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)
    study = optuna.create_study(study_name="x", storage=open_storage(store, write=True))
    monkeypatch.setattr(databases, "BUSY_MINUTES", 0.01)
    with closing(sqlite3.connect(tmp_path / "optuna.db", isolation_level=None)) as holder:
        holder.execute("BEGIN EXCLUSIVE")
        with pytest.raises(StoreError, match=r"database is locked.*another program holds it"):
            study.ask()
        for command in (("status", "x"), ("report", "x")):
            code, line = told(*command, "--store", tmp_path)
            assert code == 2
            assert "another program holds it" in line


# Moved and copied stores


@pytest.fixture
def old(tmp_path: Path) -> Store:
    """Return a store of version 0.1 that has been moved."""
    return unpacked(tmp_path)


def test_reading_commands_change_nothing(old: Store) -> None:
    before = state(old.root.parent)
    for command in READING:
        code, shown = told(*command, "--store", old.root)
        assert code in (0, command[0] == "reproduce"), shown
        assert state(old.root.parent) == before, command
    with database.to_read(old) as uri:
        version = MlflowClient(uri).get_model_version_by_alias("old", "champion")
        assert str(version.source).startswith(str(old.artifacts))
    assert state(old.root.parent) == before


def test_a_read_only_store_can_be_read(old: Store) -> None:
    try:
        subprocess.run(["mount", "--bind", old.root, old.root], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("a read-only folder can't be had here")
    try:
        again = ["mount", "-o", "remount,ro,bind", str(old.root)]
        subprocess.run(again, check=True, capture_output=True)
        for command in READING:
            code, shown = told(*command, "--store", old.root)
            assert code in (0, command[0] == "reproduce"), shown
        code, line = told("sync", "old", "--store", old.root)
        assert code == 2
        assert len(line.splitlines()) == 1
    finally:
        subprocess.run(["umount", "-l", str(old.root)], check=True)


def test_a_moved_store_finds_its_checkpoints(old: Store) -> None:
    study = StudyRecord.open(old, "old")
    for trial in study.trials:
        if trial.state == TrialState.COMPLETE:
            assert trial.checkpoint is not None
            assert trial.checkpoint.path is not None
            assert trial.checkpoint.path.is_relative_to(old.root)
            assert trial.checkpoint.names()


@pytest.mark.parametrize(
    "address",
    [
        "/srv/lab/store/trials/old/0003/checkpoint_000001",
        "/elsewhere/trials/trials/old/0003/checkpoint_000001",
        "s3://bucket/prefix/trials/old/0003/checkpoint_000001?region=x",
        "trials/old/0003/checkpoint_000001",
    ],
)
def test_a_recorded_checkpoint_is_looked_up_in_the_store(address: str, tmp_path: Path) -> None:
    found = Store(tmp_path).checkpoint(address)
    assert str(found) == str(tmp_path / "trials/old/0003/checkpoint_000001")
    for foreign in ("/etc/passwd", "trials/../../x", "trials/old/0003/../checkpoint_000001x"):
        assert Store(tmp_path).checkpoint(foreign) is None


def test_sync_of_a_copy_leaves_the_original_alone_and_its_champion_loads(
    old: Store, tmp_path: Path
) -> None:
    """The copy contains paths of the original, which still exists and is writable."""
    sync(StudyWriter.open(old, "old"), old)
    before = state(old.root)
    copied = Store(Path(shutil.copytree(old.root, tmp_path / "copy")))
    moved = "The store moved; first:"
    (line,) = [
        line
        for line in told("report", "old", "--store", copied.root)[1].splitlines()
        if line.startswith(moved)
    ]
    assert line.endswith(f"sync old --store {copied.root}")
    sync(StudyWriter.open(copied, "old"), copied)
    assert moved not in told("report", "old", "--store", copied.root)[1]
    assert state(old.root) == before
    shutil.rmtree(old.root)
    code = (
        "import mlflow, numpy; "
        f"mlflow.set_tracking_uri({copied.mlflow_uri!r}); "
        "model = mlflow.pyfunc.load_model('models:/old@champion'); "
        "print(model.predict(numpy.zeros((1, 5, 10), 'float32')).shape)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("(1, 5, ")
    with closing(sqlite3.connect(copied.root / "mlflow.db")) as found:
        for table, column in database.ADDRESS_COLUMNS:
            for (place,) in found.execute(f"SELECT {column} FROM {table}"):
                assert place in {"/srv/lab/mlruns/0"} or place.startswith(str(copied.artifacts))


def test_sync_adds_the_present_names_to_the_runs_of_version_0_1(old: Store) -> None:
    place = Place(old.mlflow_uri, "old", None)
    before = place.trials()
    assert "test_accuracy" in before[0].data.metrics
    assert before[0].data.params["trial.model.k_top"] == "2"
    study = StudyWriter.open(old, "old")
    sync(study, old)
    after = place.trials()
    assert {n: run.info.run_id for n, run in after.items()} == {
        n: run.info.run_id for n, run in before.items()
    }
    for run in after.values():
        for name, value in run.data.params.items():
            assert run.data.params[name.removeprefix("trial.")] == value
        for former, name in (("test_accuracy", "test/accuracy"), ("ladder_loss", "ladder/loss")):
            assert place.curve(run, name) == place.curve(run, former)
    assert after[0].data.metrics["test/accuracy_at_0010"] == 0.0
    (search,) = place.searches()
    assert search.data.metrics["search/best_score"] == search.data.metrics["best_score"]
    complete = place.everything()
    sync(study, old)
    assert place.everything() == complete


def test_experiments_of_others_in_a_stores_mlflow_are_unchanged(old: Store, tmp_path: Path) -> None:
    client = MlflowClient(old.mlflow_uri)
    theirs = client.create_experiment("theirs", (tmp_path / "artifacts").as_uri())
    run = client.create_run(theirs)
    assert old.artifacts is not None
    database.settle(old.mlflow_uri, old.artifacts, "old")
    client = MlflowClient(old.mlflow_uri)
    assert client.get_experiment(theirs).artifact_location == (tmp_path / "artifacts").as_uri()
    assert client.get_run(run.info.run_id).info.artifact_uri == run.info.artifact_uri
    mine = client.get_experiment_by_name("old")
    assert mine is not None
    assert mine.artifact_location == old.artifacts


def test_a_shared_mlflow_with_another_artifact_location_is_refused(
    old: Store, tmp_path: Path
) -> None:
    shared = databases.sqlite_url(tmp_path / "shared.db")
    MlflowClient(shared).create_experiment("old", (tmp_path / "elsewhere").as_uri())
    store = Store(old.root, tracking=shared)
    with pytest.raises(
        TrackingError, match=r"keeps the files of study 'old' at file://.*elsewhere"
    ):
        sync(StudyWriter.open(store, "old"), store)
    assert not (tmp_path / "elsewhere").exists()


# Foreign and damaged stores


def _text(path: Path) -> None:
    path.write_text("no database" * 100)


def _empty(path: Path) -> None:
    path.touch()


def _folder(path: Path) -> None:
    path.mkdir()


def _foreign(path: Path) -> None:
    with closing(sqlite3.connect(path)) as made, made:
        made.execute("CREATE TABLE theirs (a)")


def _waiting(path: Path) -> None:
    """Create a database in WAL mode, where a reader creates two files."""
    with closing(sqlite3.connect(path)) as made, made:
        made.execute("PRAGMA journal_mode = wal")
        made.execute("CREATE TABLE theirs (a)")


def _plain(path: Path) -> None:
    study = optuna.create_study(study_name="old", storage=databases.sqlite_url(path))
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=2)


@pytest.mark.parametrize("make", [_text, _empty, _folder, _foreign, _waiting, _plain])
def test_a_foreign_database_is_one_line_and_unchanged(
    make: Callable[[Path], None], tmp_path: Path
) -> None:
    (tmp_path / "store").mkdir()
    path = tmp_path / "store" / "optuna.db"
    make(path)
    before = state(tmp_path)
    for place in (tmp_path / "store", f"sqlite:///{path}"):
        for command in (*READING, ("confirm", "old"), ("ablate", "old"), ("sync", "old")):
            code, line = told(*command, "--store", place)
            assert code == 2, line
            assert len(line.splitlines()) == 1
        told("doctor", "--store", place)
    assert state(tmp_path) == before


def _set(table: str, key: str, value: str) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        with closing(sqlite3.connect(root / "optuna.db")) as opened, opened:
            changed = opened.execute(
                f"UPDATE {table} SET value_json = ? WHERE key = ?",
                (value, key),
            )
            assert changed.rowcount

    return change


def _truncated(root: Path) -> None:
    content = (root / "optuna.db").read_bytes()
    (root / "optuna.db").write_bytes(content[: len(content) // 2])


def _torn(root: Path) -> None:
    content = bytearray((root / "optuna.db").read_bytes())
    for page in range(2, len(content) // 4096):
        content[page * 4096 : page * 4096 + 64] = b"\xff" * 64
    (root / "optuna.db").write_bytes(bytes(content))


@pytest.mark.parametrize(
    "damage",
    [
        _truncated,
        _torn,
        _set("study_user_attributes", "plan", "{"),
        _set("study_user_attributes", "plan", "3"),
        _set("study_user_attributes", "plan", '{"seeds": 3, "study": []}'),
        _set("study_user_attributes", "plan", '{"seeds": {"first": "one", "last": null}}'),
        _set("trial_user_attributes", "assignment", "[]"),
        _set("trial_user_attributes", "assignment", '{"number": 0}'),
        _set("trial_user_attributes", "result", '{"test": 7}'),
        _set("trial_user_attributes", "result", '{"test": [{"length": 5, "accuracy": "high"}]}'),
        _set("trial_user_attributes", "result", '"done"'),
        _set("trial_user_attributes", "result", "nonsense"),
    ],
)
def test_a_damaged_store_is_one_line(
    damage: Callable[[Path], None], old: Store, tmp_path: Path
) -> None:
    damage(old.root)
    lines = []
    for command in (*READING, ("confirm", "old"), ("sync", "old")):
        code, shown = told(*command, "--store", old.root)
        assert code in (0, 1, 2)
        if code == 2:
            assert len(shown.splitlines()) == 1
            lines.append(shown)
    assert any("old" in line or "trial" in line or str(old.root) in line for line in lines)


def test_a_study_of_optuna_alone_does_not_disturb_others(old: Store) -> None:
    study = optuna.create_study(study_name="plain", storage=old.optuna_url)
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=2)
    code, _ = told("report", "old", "--store", old.root)
    assert code == 0
    for command in ("status", "report", "sync", "confirm", "ablate"):
        code, line = told(command, "plain", "--store", old.root)
        assert code == 2
        assert "study 'plain'" in line
        assert "wasn't made by sabtune" in line


def test_a_store_without_its_mlflow_is_readable_and_sync_recreates_it(old: Store) -> None:
    (old.root / "mlflow.db").unlink()
    code, _ = told("report", "old", "--store", old.root)
    assert code == 0
    code, line = told("ui", "--store", old.root)
    assert code == 2
    assert "there is no MLflow at" in line
    assert not (old.root / "mlflow.db").exists()
    sync(StudyWriter.open(old, "old"), old)
    version = MlflowClient(old.mlflow_uri).get_model_version_by_alias("old", "champion")
    assert str(version.source).startswith(str(old.artifacts))
