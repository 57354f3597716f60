"""Test that a study records which data its trials read, and notices other data."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from pydoc_data.topics import topics

import optuna
import pytest
import torch

from sabtune.compare.extrapolate import extrapolate
from sabtune.compare.reproduce import reproduce
from sabtune.data import images, texts
from sabtune.data.digests import differences
from sabtune.errors import DataError, StoreError
from sabtune.storage.folder import Folder
from sabtune.storage.store import Store
from sabtune.study.attributes import SPEC
from sabtune.study.loading import load
from sabtune.study.resuming import check_same_data, check_same_question
from sabtune.study.trial_specs import TrialSpecs
from sabtune.tasks import Copying, Language, Pixels
from sabtune.tracking.datasets import inputs
from sabtune.training.evaluation import Ladder
from sabtune.training.trial import TrialRun, TrialSpec, check_datasets
from sabtune.tuning import trainable
from sabtune.tuning.run import open_or_create
from sabtune.tuning.trainable import Trial, WorkerResult, WorkerTask
from tests.records import spec, trial
from tests.studies import posed

OTHER = "0" * 64


def of_digits(**datasets: str) -> TrialSpec:
    run = dataclasses.replace(spec().run, task=Pixels.Config(by="row", length=8))
    ladder = Ladder(lengths=(8, 16), select=(8,), sequences=8)
    return spec(run=run, ladder=ladder, datasets=datasets)


def test_a_task_without_data_has_no_data_sets() -> None:
    assert Copying.Config().build().datasets() == {}


def test_the_digest_of_included_data_is_that_of_its_content() -> None:
    """Check pydoc by the characters, and digits by the arrays, part by part."""
    text = "".join(
        texts.TEXT_SETS["pydoc"].alphabet[i]
        for part in texts.load("pydoc").values()
        for i in part.tolist()
    )
    assert " ".join(topics["assert"].split()[:3]).lower() in text
    digest = hashlib.sha256(text.encode()).hexdigest()
    assert Language.Config().build().datasets() == {"pydoc": digest}
    parts = images.load("digits").values()
    arrays = [torch.cat([part[i] for part in parts]).numpy().tobytes() for i in (0, 1)]
    digest = hashlib.sha256(b"".join(arrays)).hexdigest()
    assert Pixels.Config().build().datasets() == {"digits": digest}


def test_a_search_records_the_digests_with_each_trial(tmp_path: Path) -> None:
    task = Pixels.Config(by="row", length=8)
    specs = TrialSpecs(load(posed(task, tmp_path)), [], Folder(str(tmp_path / "code")))
    trial = optuna.create_study().ask()
    made = specs.spec(trial)
    assert made.datasets == task.build().datasets()
    assert TrialSpec.from_dict(trial.user_attrs[SPEC]) == made
    assert TrialSpec.from_dict(json.loads(json.dumps(made.to_dict()))) == made


def test_a_record_without_digests_loads_and_is_not_checked() -> None:
    data = of_digits(digits=OTHER).to_dict()
    del data["datasets"]
    old = TrialSpec.from_dict(data)
    assert old.datasets == {}
    check_datasets(old)


def test_mlflow_shows_the_digest() -> None:
    digest = Pixels.Config().build().datasets()["digits"]
    made = inputs(of_digits(digits=digest))
    shown = {each.tags[0].value: each.dataset for each in made}
    assert list(shown) == ["training", "selection", "test"]
    for context, each in shown.items():
        assert each.name == f"digits.{context}"
        assert each.digest == digest[:36]
        assert json.loads(each.profile or "")["sha256"] == digest


def test_a_worker_with_other_data_fails_the_trial_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainable, "device", lambda: torch.device("cpu"))
    digest = Pixels.Config().build().datasets()["digits"]
    for recorded in (digest, OTHER):
        worker = Trial.__new__(Trial)
        task = WorkerTask(spec=of_digits(digits=recorded), directory="0000", trials=str(tmp_path))
        worker.reset_config(task.to_config())
        result = WorkerResult.from_result(worker.step())
        if recorded == digest:
            assert result.progress is not None
            continue
        assert result.progress is None
        assert result.failed.startswith(f"DataError: data set digits has SHA-256 {OTHER[:16]}… in")
        assert f"but here it has {digest[:16]}…" in result.failed
        assert "\n" not in result.failed


def test_a_study_is_not_resumed_on_other_data(tmp_path: Path) -> None:
    task = Pixels.Config(by="row", length=8)
    file, store = load(posed(task, tmp_path)), Store(tmp_path / "store").made()
    study = open_or_create(file, store)
    check_same_question(file, study.read())  # no digest is recorded before the first trial
    good = dict(task.build().datasets())
    for digests in (good, {"digits, renamed": good["digits"]}):
        study.change_plan(datasets=digests)
        check_same_question(file, study.read())
    study.change_plan(datasets={"digits": OTHER})
    checks: list[Callable[[], None]] = [
        lambda: check_same_question(file, study.read()),
        lambda: check_same_data(study.read(), task),
    ]
    for check in checks:
        with pytest.raises(StoreError, match=f"data set digits with SHA-256 {OTHER[:16]}…") as told:
            check()
        assert f"but here it has {good['digits'][:16]}…: restore that data, or start" in str(
            told.value
        )
        assert "\n" not in str(told.value)
    again = open_or_create(file, store).read()
    assert again.plan.datasets == {"digits": OTHER}  # a later search keeps it


def test_reproduce_names_data_that_differs() -> None:
    made = of_digits(digits=OTHER)
    run = TrialRun(made)
    history = list(run)
    trained = dataclasses.replace(
        trial(0, score=history[-1].score),
        spec=made,
        scores={progress.report.step: progress.score for progress in history},
        ladder=list(history[-1].ladder),
        test=list(history[-1].test),
    )
    found = reproduce(trained)
    assert found.differences == []
    now = Pixels.Config().build().datasets()["digits"]
    assert found.environment == [("data set digits", OTHER, now)]
    unmeasured = dataclasses.replace(trained, checkpoint=Folder("none"))
    with pytest.raises(DataError, match="data set digits has SHA-256"):
        next(extrapolate(unmeasured, [8], 8))


@pytest.mark.parametrize(
    ("recorded", "present", "told"),
    [
        ({"a": "1", "b": "2"}, {"b": "2", "a": "1"}, []),
        ({"a": "1"}, {"moved": "1"}, []),
        ({"a": "1", "b": "2"}, {"a": "1", "b": "3"}, [("b", "2", "3")]),
        ({"a": "1"}, {"b": "2"}, [("a", "1", None)]),
        ({"a": "1", "b": "2"}, {"a": "2", "b": "1"}, [("a", "1", "2"), ("b", "2", "1")]),
    ],
)
def test_differences_are_by_content(
    recorded: dict[str, str], present: dict[str, str], told: list[tuple[str, str, str | None]]
) -> None:
    assert differences(recorded, present) == told
