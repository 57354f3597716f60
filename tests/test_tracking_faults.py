"""Test an absent MLflow: the search continues, and what MLflow missed is written later."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sabtune.config import RunConfig
from sabtune.errors import TrackingError
from sabtune.study.events import Version
from sabtune.tracking import Tracker, links
from sabtune.tracking.view import path
from tests.experiments import (
    ENOUGH,
    Place,
    Server,
    assert_shows,
    progress,
    spec,
    state,
    tell,
    until,
    views,
)

NOBODY = "http://anna:s3cr3t@127.0.0.1:9"
"""An address where nothing listens: port 9 belongs to a service that nobody runs anymore."""

AWAY = "MLflow at http://127.0.0.1:9 can't be reached"

QUIET = """
import sys
from pathlib import Path
from tests.experiments import ENOUGH, tell, views
from tests.conftest import run
from sabtune.tracking import Tracker
from sabtune.study.events import Version

told = views(run.__wrapped__())
artifacts = Path("artifacts").absolute().as_uri() if "sqlite" in sys.argv[1] else None
tracker = Tracker(sys.argv[1], "quiet", artifacts)
for picture in told:
    tell(tracker, picture)
sys.exit(0 if tracker.close(ENOUGH) else 7)
"""


def test_an_absent_server_does_not_disturb_the_search(run: RunConfig, tmp_path: Path) -> None:
    tracker = Tracker(NOBODY, "study", None)
    for number in range(200):
        tracker.trial_started(spec(run, number))
        tracker.trial_reported(number, progress(5))
    until(lambda: tracker.behind)
    assert tracker.behind == AWAY
    assert tracker.register([Version(trial=0)], 0) is None
    assert not tracker.keep_files(tmp_path, "report")
    with pytest.raises(TrackingError) as raised:
        tracker.sync(views(run), state())
    assert str(raised.value) == f"{AWAY}: fix this, then run it again"
    assert not tracker.close(ENOUGH)
    tracker.trial_reported(0, progress(10))  # a report after the close raises nothing
    assert "s3cr3t" not in str(tracker.behind)
    assert links.server_address(NOBODY, "study") is None


def test_a_tracker_without_data_loses_nothing(run: RunConfig) -> None:
    tracker = Tracker(NOBODY, "study", None)
    until(lambda: tracker.behind)
    assert tracker.behind == AWAY
    assert tracker.close(ENOUGH)


@pytest.mark.slow  # SQLite waits 20 s for a lock
def test_failed_writes_are_retried(run: RunConfig, tmp_path: Path) -> None:
    told = views(run)
    place = Place(f"sqlite:///{tmp_path / 'mlflow.db'}", "study", tmp_path)
    before = place.tracker()
    tell(before, told[0])
    assert before.close(ENOUGH)
    tracker = place.tracker()
    lock = sqlite3.connect(tmp_path / "mlflow.db", isolation_level=None)
    lock.execute("BEGIN IMMEDIATE")  # the database can be opened and read, but not written
    tell(tracker, told[1])
    until(lambda: tracker.behind)
    lock.execute("ROLLBACK")
    lock.close()
    until(lambda: tracker.behind is None)
    assert tracker.close(ENOUGH)
    assert_shows(place, told[:2])


@pytest.mark.parametrize(("uri", "code"), [("sqlite:///mlflow.db", 0), (NOBODY, 7)])
def test_mlflow_prints_nothing(uri: str, code: int, tmp_path: Path) -> None:
    """Check an MLflow that creates its database, and an absent server."""
    done = subprocess.run(
        [sys.executable, "-c", QUIET, uri],
        cwd=tmp_path,
        env={"PYTHONPATH": str(Path(__file__).parent.parent), "PATH": ""},
        capture_output=True,
        text=True,
    )
    assert (done.stdout, done.stderr) == ("", "")
    assert done.returncode == code


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path)
    server.start()
    yield server
    server.stop()


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_sync_completes_a_server_that_returns(server: Server, run: RunConfig) -> None:
    told = views(run)
    place = Place(server.uri, "study", None)
    tracker = place.tracker()
    tell(tracker, told[0])
    tracker.trial_started(told[1].spec)
    tracker.trial_reported(1, told[1].history[0])
    until(lambda: place.client.get_experiment_by_name("study") and 1 in place.trials())
    server.stop()
    for view in told[2:]:
        tell(tracker, view)
    until(lambda: tracker.behind)
    with pytest.raises(TrackingError, match="can't be reached"):
        tracker.sync(told, state())
    server.start()
    tracker.trial_reported(1, told[1].history[1])
    assert told[1].outcome is not None
    tracker.trial_ended(1, told[1].outcome)
    tracker.close(ENOUGH)
    tracker.sync(told, state(told[0]))
    assert tracker.behind is None
    assert_shows(place, told)
    before = place.everything()
    tracker.sync(told, state(told[0]))
    assert place.everything() == before
    secret = server.uri.replace("//", "//anna:s3cr3t@")
    assert links.server_address(secret, "study") == server.uri + path(place.experiment)
    assert links.server_address(server.uri, "none") is None
