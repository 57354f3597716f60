"""Test a store in PostgreSQL, on a real local server with a password."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import optuna
import pytest
import sqlalchemy
from mlflow import MlflowClient
from optuna.trial import TrialState

from sabtune.storage.store import Store
from sabtune.study.locks import is_held
from tests.faults import assert_as_unbroken, driver, records, study
from tests.forked import sabtune
from tests.objects import BUCKET, Objects

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1700)]


@dataclass
class Server:
    """A PostgreSQL server in a folder; as root it runs as the user `postgres`."""

    folder: Path
    binaries: Path
    user: list[str]  # the command prefix to run as that user
    port: int
    password: str

    @property
    def url(self) -> str:
        return f"postgresql://anna:{self.password}@127.0.0.1:{self.port}/postgres"

    @property
    def mlflow(self) -> str:
        """Return the URL of a second database, for MLflow."""
        return f"{self.url.removesuffix('postgres')}mlflow"

    def mistaken(self, url: str, mistake: str) -> str:
        """Return a URL of the server with a wrong password or port."""
        wrong = {"password": (self.password, "s3cr3t"), "port": (f":{self.port}/", ":9/")}
        return url.replace(*wrong[mistake])

    def create(self) -> None:
        secret = self.folder / "password"
        secret.write_text(self.password)
        if self.user:
            for path in (self.folder, secret):
                shutil.chown(path, "postgres")
        self._run(
            "initdb", "--username=anna", "--auth=scram-sha-256", f"--pwfile={secret}", "--no-sync"
        )
        secret.unlink()

    def start(self) -> None:
        options = f"-h 127.0.0.1 -p {self.port} -k {self.folder} -F"
        self._run("pg_ctl", "start", "-w", f"--log={self.folder / 'log'}", f"--options={options}")

    def stop(self) -> None:
        self._run("pg_ctl", "stop", "-w", "--mode=immediate")

    def execute(self, url: str, *statements: str) -> None:
        """Execute SQL statements in a database of the server, each in its own transaction."""
        engine = sqlalchemy.create_engine(url, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            for statement in statements:
                connection.execute(sqlalchemy.text(statement))
        engine.dispose()

    def _run(self, name: str, *arguments: str) -> None:
        command = [*self.user, str(self.binaries / name), f"--pgdata={self.folder / 'data'}"]
        with (self.folder.parent / f"{self.folder.name}.out").open("w") as shown:
            done = subprocess.run(
                [*command, *arguments], cwd="/", stdout=shown, stderr=shown, check=False
            )
        assert done.returncode == 0, Path(shown.name).read_text()


def binaries() -> Path:
    """Return the folder of PostgreSQL's commands; skip the test if there are none."""
    places = [str(path) for path in Path("/usr/lib/postgresql").glob("*/bin")]
    found = shutil.which("pg_ctl", path=os.pathsep.join([os.environ.get("PATH", ""), *places]))
    if found is None:
        pytest.skip(f"PostgreSQL's pg_ctl is neither on the PATH nor in {places or 'its places'}")
    return Path(found).resolve().parent


def as_postgres() -> list[str]:
    """Return a command prefix for a user that is not root, because PostgreSQL refuses root.

    Skips the test if root can't switch to another user.
    """
    if os.geteuid() != 0:
        return []
    try:
        pwd.getpwnam("postgres")
    except KeyError:
        pytest.skip("PostgreSQL refuses root, and there is no user postgres")
    if shutil.which("setpriv") is None:
        pytest.skip("PostgreSQL refuses root, and there is no setpriv to become postgres by")
    return ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    user, place = as_postgres(), binaries()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as outer:  # other users can't enter pytest's folders
        Path(outer).chmod(0o755)
        folder = Path(outer) / "postgres"
        folder.mkdir()
        server = Server(folder, place, user, port, secrets.token_hex(12))
        server.create()
        server.start()
        server.execute(server.url, "CREATE DATABASE mlflow")
        try:
            yield server
        finally:
            server.stop()


@pytest.fixture(autouse=True)
def empty(request: pytest.FixtureRequest) -> None:
    """Empty the studies' database before a test, which may be the test's second attempt.

    MLflow's database stays: MLflow remembers in this process that it has made the tables.
    """
    if "server" in request.fixturenames:
        server: Server = request.getfixturevalue("server")
        server.execute(server.url, "DROP SCHEMA public CASCADE", "CREATE SCHEMA public")


def assert_secret(server: Server, folder: Path, *shown: str) -> None:
    """Check that the password is neither in the output nor in any file of the folder."""
    assert all(server.password not in text for text in shown)
    for file in folder.rglob("*"):
        if file.is_file():
            assert server.password.encode() not in file.read_bytes(), file


def test_a_search_in_postgres_from_end_to_end_and_resumed(server: Server, tmp_path: Path) -> None:
    file = study(tmp_path, "end-to-end", ["plain"] * 3)
    where = ["--store", server.url, "--files", "files"]
    first = sabtune("search", file, "--trials", 2, *where, cwd=tmp_path)
    second = sabtune("search", file, *where, cwd=tmp_path)
    status = sabtune("status", "end-to-end", *where, cwd=tmp_path)
    report = sabtune("report", "end-to-end", *where, cwd=tmp_path)
    for done in (first, second, status, report):
        assert done.stderr == ""
        assert done.returncode == 0
    assert f"--store postgresql://anna@127.0.0.1:{server.port}/postgres" in first.stdout
    assert "#0" not in second.stdout.partition("Study")[0]
    assert "3 trials" in report.stdout
    assert "3" in status.stdout
    trials = records(Store.at(server.url, tmp_path / "files"), "end-to-end")
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 3
    for trial in trials:
        assert_as_unbroken(trial)
    assert not (tmp_path / "files" / "optuna.db").exists()
    shown = [done.stdout + done.stderr for done in (first, second, status, report)]
    assert_secret(server, tmp_path, *shown)


def test_optunas_page_on_a_database(server: Server, tmp_path: Path) -> None:
    storage = optuna.storages.RDBStorage(server.url)
    optuna.create_study(study_name="shown-in-postgres", storage=storage)
    storage.remove_session()
    storage.engine.dispose()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    where = ["--port", port, "--store", server.url]
    with driver("ui", "--optuna", *where, cwd=tmp_path) as ui:
        ui.until(f"optuna-dashboard: http://127.0.0.1:{port}")
        ui.until(lambda: b"shown-in-postgres" in got(f"http://127.0.0.1:{port}/api/studies"))
        arguments = Path(f"/proc/{ui.process.pid}/task/{ui.process.pid}/children").read_text()
        assert arguments == ""  # the password is in no command line
        ui.process.send_signal(signal.SIGTERM)
        assert ui.end() == 0
    assert ui.errors == ""
    assert_secret(server, tmp_path, ui.shown)


def got(url: str) -> bytes:
    """Return the content of a page, empty while the server doesn't answer."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bytes(answer.read())
    except OSError:
        return b""


def test_only_one_search_at_a_time_even_with_other_files(server: Server, tmp_path: Path) -> None:
    file = study(tmp_path, "shared", ["plain"], updates=100_000)
    other = Store.at(server.url, tmp_path / "there").made()
    with driver("search", file, "--store", server.url, "--files", "here", cwd=tmp_path) as search:
        search.until("#0 30/100000 updates")
        assert is_held("shared", other)
        refused = sabtune("search", file, "--store", server.url, "--files", "there", cwd=tmp_path)
    assert refused.returncode == 2
    assert all(line.endswith(" …") for line in refused.stdout.splitlines())  # its steps
    (line,) = refused.stderr.splitlines()
    assert line.startswith("sabtune: study 'shared' in postgresql://anna:***@127.0.0.1")
    assert "is being searched by another process" in line
    assert_secret(server, tmp_path, search.shown, search.errors, refused.stderr)
    assert not is_held("shared", other)  # the killed search released its lock


@pytest.mark.parametrize("mistake", ["password", "port"])
def test_a_refused_connection_is_one_line(server: Server, mistake: str, tmp_path: Path) -> None:
    file = study(tmp_path, "outside", ["plain"])
    url = server.mistaken(server.url, mistake)
    for command in (("search", file), ("status", "outside"), ("report", "outside")):
        refused = sabtune(*command, "--store", url, "--files", "files", cwd=tmp_path)
        assert refused.returncode == 2
        assert all(line.endswith(" …") for line in refused.stdout.splitlines())
        (line,) = refused.stderr.splitlines()
        assert line.startswith("sabtune: the database of postgresql://anna:***@127.0.0.1")
        assert "s3cr3t" not in line
        assert_secret(server, tmp_path, line)


def test_a_search_waits_for_an_absent_server_and_loses_nothing(
    server: Server, tmp_path: Path
) -> None:
    file = study(tmp_path, "away", ["plain"] * 2, updates=900)
    where = ["--store", server.url, "--files", "files"]
    with driver("search", file, *where, cwd=tmp_path) as search:
        search.until("#0 90/900 updates")
        server.stop()
        try:
            search.until(lambda: search.errors)
        finally:
            server.start()
        code = search.end()
        shown, errors = search.shown, search.errors
    (line,) = errors.splitlines()
    assert line.startswith("The database doesn't answer: trying again for ")
    assert code == 0
    trials = records(Store.at(server.url, tmp_path / "files"), "away")
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 2
    for trial in trials:
        assert_as_unbroken(trial)
    assert_secret(server, tmp_path, shown, errors)


def test_mlflow_in_postgres_and_its_files_in_an_object_store(
    server: Server, s3: Objects, tmp_path: Path
) -> None:
    file = study(tmp_path, "shared-mlflow", ["plain"] * 2)
    where = ["--files", f"s3://{BUCKET}/shared-mlflow", "--tracking", server.mlflow]
    done = sabtune("search", file, "--store", server.url, *where, cwd=tmp_path)
    assert done.stderr == ""
    assert done.returncode == 0
    assert f"--tracking postgresql://anna@127.0.0.1:{server.port}/mlflow" in done.stdout
    synced = sabtune("sync", "shared-mlflow", "--store", server.url, *where, cwd=tmp_path)
    assert synced.stderr == ""
    client = MlflowClient(server.mlflow)
    experiment = client.get_experiment_by_name("shared-mlflow")
    assert experiment is not None
    assert experiment.artifact_location == f"s3://{BUCKET}/shared-mlflow/artifacts"
    runs = client.search_runs([experiment.experiment_id])
    assert len(runs) == 3
    assert len(client.search_logged_models([experiment.experiment_id])) == 2
    assert any(name.endswith("weights.safetensors") for name in s3.names("shared-mlflow/artifacts"))
    assert not (tmp_path / "sabtune-store" / "mlflow.db").exists()
    assert_secret(server, tmp_path, done.stdout, synced.stdout)


def test_mlflows_page_on_a_database(server: Server, tmp_path: Path) -> None:
    MlflowClient(server.mlflow).create_experiment("shown-by-mlflow", "file:///nowhere")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    where = ["--store", server.url, "--tracking", server.mlflow, "--port", port]
    with driver("ui", *where, cwd=tmp_path) as ui:
        page = f"http://127.0.0.1:{port}/ajax-api/2.0/mlflow/experiments/get-by-name"
        ui.until(lambda: b"shown-by-mlflow" in got(f"{page}?experiment_name=shown-by-mlflow"))
        # There is no child process whose arguments could show the password.
        assert not Path(f"/proc/{ui.process.pid}/task/{ui.process.pid}/children").read_text()
        ui.process.send_signal(signal.SIGTERM)
        assert ui.end() == 0
    assert_secret(server, tmp_path, ui.shown, ui.errors)


def test_mlflow_and_optuna_cannot_share_a_database(server: Server, tmp_path: Path) -> None:
    file = study(tmp_path, "both", ["plain"])
    both = ["--store", server.url, "--tracking", server.url]
    refused = sabtune("search", file, *both, cwd=tmp_path)
    assert refused.returncode == 2
    (line,) = refused.stderr.splitlines()
    assert (
        "holds Optuna's studies, and MLflow can't share a database with them: give --tracking a"
        in line
    )
    assert_secret(server, tmp_path, line)


@pytest.mark.parametrize("mistake", ["password", "port"])
def test_a_refused_connection_to_mlflows_database_is_one_line(
    server: Server, mistake: str, tmp_path: Path
) -> None:
    file = study(tmp_path, "outside", ["plain"])
    url = server.mistaken(server.mlflow, mistake)
    refused = sabtune("search", file, "--tracking", url, cwd=tmp_path)
    assert refused.returncode == 2
    (line,) = refused.stderr.splitlines()
    assert line.startswith("sabtune: MLflow at postgresql://127.0.0.1")
    assert "s3cr3t" not in line
    assert "starts" not in refused.stdout
    assert_secret(server, tmp_path, line)
