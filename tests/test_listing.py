"""Test the list of a store's studies, against the records of the studies."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState
from rich.console import Console
from typer.testing import CliRunner

from sabtune.cli.app import app
from sabtune.storage.store import Store
from sabtune.study.attributes import PLAN, RETRY_OF, SCORES, SPEC
from sabtune.study.listing import ListedStudy, listed, parent
from sabtune.study.locks import locked
from sabtune.study.optuna_storage import open_storage
from sabtune.study.record import StudyRecord
from sabtune.terminal.studies import studies_page
from tests import records
from tests.reports import BASELINES, confirmed, searched
from tests.stores import unpacked

NOW = datetime(2026, 11, 30, 12)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Return a store with four studies of sabtune and one of another program."""
    made = Store(tmp_path_factory.mktemp("listing")).made()
    study = searched(made, "copying", 13)
    study.set_user_attr(PLAN, {"study": {"trials": 20}, "file": "copying.py"})
    study.enqueue_trial({}, user_attrs={RETRY_OF: 10})
    for score in ({10: 0.2, 20: 1.5}, {}):  # the highest score is that of a running trial
        running = study.ask()
        running.set_user_attr(SPEC, records.spec(running.number).to_dict())
        for step, value in score.items():
            running.report(value, step)
    front = searched(made, "front", 5, objectives=("score", "peak_memory"))
    ended = front.ask()
    ended.set_user_attr(SPEC, records.spec(ended.number).to_dict())
    ended.set_user_attr(SCORES, {"30": 1.25, "4": 1.75})
    front.tell(ended, state=TrialState.PRUNED)
    failed = front.ask()
    failed.set_user_attr(SCORES, {"30": 9.0})
    front.tell(failed, state=TrialState.FAIL)
    confirmed(made, "copying.confirm", BASELINES)
    optuna.create_study(study_name="empty", storage=open_storage(made, write=True)).set_user_attr(
        PLAN, {"study": {"trials": 3}}
    )
    optuna.create_study(study_name="foreign", storage=open_storage(made, write=True)).ask()
    return made


def test_a_list_agrees_with_the_records(store: Store) -> None:
    studies = {study.name: study for study in listed(store)}
    assert list(studies) == ["copying", "copying.confirm", "empty", "front"]
    for name, study in studies.items():
        record = StudyRecord.open(store, name)
        assert {k: n for k, n in study.counts.items() if n} == dict(record.counts)
        assert study.ended == record.ended
        assert study.planned == record.planned
        scored = [t for t in record.trials if t.state != TrialState.FAIL and (t.values or t.scores)]
        best = max((trial.score for trial in scored), default=None)
        assert study.best == (None if record.is_comparison else best)
        times = [time for t in record.trials for time in (t.started, t.ended) if time is not None]
        assert study.active == max(times, default=None)
    assert studies["copying"].best == 1.5
    assert studies["front"].best == 1.25
    assert studies["copying"].planned == 20
    assert studies["copying.confirm"].planned == 8
    assert [name for name in studies if studies[name].complete] == ["copying.confirm", "front"]


def test_a_store_of_version_0_1_is_listed(tmp_path: Path) -> None:
    old, comparison = listed(unpacked(tmp_path))
    assert (old.name, old.ended, old.planned, old.complete) == ("old", 4, 6, False)
    assert (comparison.name, comparison.planned, comparison.complete) == ("old.confirm", 6, True)


def test_listing_does_not_load_pytorch() -> None:
    code = "import sys, sabtune.study.listing, sabtune.study.locks, sabtune.terminal.studies\n"
    code += "assert not {'torch', 'ray', 'mlflow', 'numba'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("name", "of"),
    [
        ("copying", None),
        ("copying.confirm", "copying"),
        ("copying.lstm", "copying"),
        ("copying.lstm.confirm-2", "copying.lstm"),
        ("copying.gru.confirm", "copying"),
        ("copying-2", None),
        ("other.confirm", None),
    ],
)
def test_a_study_belongs_to_the_one_that_its_name_begins_with(name: str, of: str | None) -> None:
    assert parent(name, {"copying", "copying.lstm", name}) == of


def entry(name: str, hours: float | None, ended: int = 5, best: float | None = 0.5) -> ListedStudy:
    active = None if hours is None else NOW - timedelta(hours=hours)
    counts = {TrialState.COMPLETE: ended} if ended else {}
    return ListedStudy(name=name, counts=counts, planned=10, best=best, active=active)


def page(*studies: ListedStudy, searched: tuple[str, ...] = (), width: int = 80) -> list[str]:
    console = Console(file=io.StringIO(), width=width)
    console.print(studies_page("here", studies, searched, NOW))
    return [line.rstrip() for line in console.file.getvalue().splitlines()]  # type: ignore[attr-defined]


def test_the_page_has_groups_with_the_latest_activity_first() -> None:
    lines = page(
        entry("old", 50),
        entry("copying", 30, 10),
        entry("copying.lstm", 9, 10, best=None),
        entry("copying.lstm.confirm", 2, 0),
        entry("copying.confirm", 20, 10),
        entry("new", None, 0, best=None),
        entry("live", 60, 3),
        searched=("live",),
    )
    assert lines[:2] == ["Studies in here", ""]
    assert [re.split(r"(?<=\S)\s{2,}", line) for line in lines[2:]] == [
        ["study", "state", "trials", "best score", "last activity"],
        ["live", "searching", "3 of 10", "0.500", "now"],
        ["copying", "complete", "10 of 10", "0.500", "30 h 00 min ago"],
        ["  copying.lstm", "complete", "10 of 10", "9 h 00 min ago"],
        ["    copying.lstm.confirm", "empty", "0 of 10", "0.500", "2 h 00 min ago"],
        ["  copying.confirm", "complete", "10 of 10", "0.500", "20 h 00 min ago"],
        ["old", "interrupted", "5 of 10", "0.500", "2 d 2 h ago"],
        ["new", "empty", "0 of 10"],
    ]


def test_a_long_name_is_not_cut() -> None:
    lines = page(entry("n" * 100, 1))
    assert max(map(len, lines)) <= 80
    assert "".join(line.split(" ")[0] for line in lines[3:]) == "n" * 100


def test_status_lists_the_studies_and_says_if_there_are_none(store: Store, tmp_path: Path) -> None:
    with locked("front", store):
        shown = CliRunner().invoke(app, ["status", "--store", str(store.root)]).output.splitlines()
    names = [line.split()[0] for line in shown[3:7]]
    assert names == ["front", "copying", "copying.confirm", "empty"]
    assert shown[3].split()[1] == "searching"
    assert " status front --follow --store " in shown[8]
    assert " report front --store " in shown[9]
    empty = Store(tmp_path / "empty").made()
    open_storage(empty, write=True)
    shown = CliRunner().invoke(app, ["status", "--store", str(empty.root)]).output.splitlines()
    assert shown == [f"{empty.root} has no studies yet; run `sabtune search` first."]
