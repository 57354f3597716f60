"""Test measuring stored models at further lengths."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from sabtune import cli
from sabtune.compare.extrapolate import extrapolate
from sabtune.errors import StoreError
from sabtune.models import SAB
from sabtune.seeding import Stream
from sabtune.storage.folder import Folder
from sabtune.storage.store import Store
from sabtune.study.attributes import SPEC
from sabtune.study.optuna_storage import open_storage
from sabtune.study.trial_record import TrialRecord
from sabtune.training.evaluation import measure_ladder
from sabtune.training.trial import TrialRun
from tests.records import spec, trial
from tests.reports import frozen


def trained(directory: Path, *, confirms: bool) -> tuple[TrialRun, TrialRecord]:
    """Return a complete trial, and its record in a study."""
    run = TrialRun(spec(confirms=confirms))
    *_, last = run
    run.save(directory)
    known = dataclasses.replace(
        trial(0, score=last.score),
        spec=run.spec,
        test=list(last.test),
        checkpoint=Folder.at(directory),
    )
    return run, known


@pytest.mark.parametrize("confirms", [False, True])
def test_a_stored_model_reproduces_its_results_and_extrapolates(
    tmp_path: Path, confirms: bool
) -> None:
    run, known = trained(tmp_path, confirms=confirms)
    found = [measured.result for measured in extrapolate(known, (4, 8, 50), 8)]
    assert found[:2] == known.test
    further = measure_ladder(
        run.training.model,
        run.training.task,
        (50,),
        sequences=8,
        seed=0,
        stream=Stream.CONFIRMATION if confirms else Stream.TEST,
    )
    assert found[2:] == further


def test_an_incomplete_trial_is_refused(tmp_path: Path) -> None:
    _, known = trained(tmp_path, confirms=False)
    with pytest.raises(StoreError, match="trial 0 isn't complete"):
        next(extrapolate(dataclasses.replace(known, test=[]), (4,), 8))


def test_the_command_prints_a_line_per_length(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def sabtune(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["sabtune", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            sys.exit(cli.run())
        return int(stopped.value.code or 0), *capsys.readouterr()

    kept = tmp_path / "trials" / "kept" / "0000" / "checkpoint_000000"
    run, _ = trained(kept, confirms=False)
    study = optuna.create_study(
        study_name="kept",
        storage=open_storage(Store(tmp_path), write=True),
        direction="maximize",
    )
    place = ("--store", tmp_path, "--sequences", 1)
    code, _, err = sabtune("extrapolate", "kept", "--lengths", "6", *place)
    assert (code, err.splitlines()) == (
        2,
        ["sabtune: study 'kept' has no complete trial yet: search it first"],
    )
    made = frozen(
        0,
        SAB.Config(hidden=4),
        0.5,
        TrialState.COMPLETE,
        task=run.training.run.task,
        checkpoint=kept,
    )
    made.user_attrs[SPEC] = run.spec.to_dict()
    study.add_trial(made)
    code, out, err = sabtune("extrapolate", "kept", "--lengths", "6,1000", *place)
    assert err == ""
    assert code == 0
    six, thousand = " ".join(out.split()).split("peak memory)")[:2]
    found = measure_ladder(
        run.training.model, run.training.task, (6, 1000), sequences=1, seed=0, stream=Stream.TEST
    )
    assert f"at length 6: {found[0].accuracy:.2%}, " in six
    assert f"at length 1,000: {found[1].accuracy:.2%}, " in thousand
    assert "(1 sequence, " in six
    code, _, err = sabtune("extrapolate", "kept", "--lengths", "0", *place)
    assert (code, "--lengths is 0" in err) == (2, True)
    code, _, err = sabtune("extrapolate", "kept", 7, "--lengths", "6", *place)
    assert (code, "has no trial 7" in err) == (2, True)
