"""Test models in MLflow: one per complete trial, safe to load, and the study's champion."""

from __future__ import annotations

import re
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
import torch
from mlflow import MlflowClient, pyfunc
from mlflow.entities import LoggedModelStatus
from mlflow.models import Model

from sabtune.config import RunConfig, TrainConfig, TrialConfig
from sabtune.errors import TrackingError
from sabtune.models import LSTM, SAB, SelfAttention
from sabtune.models.base import ModelConfig
from sabtune.storage.folder import Folder
from sabtune.study.events import TrialView, Version
from sabtune.tasks import Copying
from sabtune.training import checkpoint
from sabtune.training.loop import Training
from tests import conftest
from tests.experiments import (
    COMPLETE,
    ENOUGH,
    Place,
    assert_shows,
    contexts,
    spec,
    state,
    tell,
    views,
)

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> TrialView:
    """Return a complete trial with its checkpoint."""
    directory = tmp_path_factory.mktemp("trained")
    config: RunConfig = conftest.run.__wrapped__()  # type: ignore[attr-defined]
    training = Training(config)
    for _ in training:
        pass
    training.save(directory)
    (told, *_) = views(config)
    return replace(told, outcome=replace(COMPLETE, checkpoint=Folder.at(directory)))


def numbered(view: TrialView, number: int) -> TrialView:
    """Return the same trial with another number."""
    return replace(view, spec=spec(view.spec.run, number))


def logits(directory: Path, x: np.ndarray) -> np.ndarray:
    """Return the logits of the trained model."""
    with torch.no_grad():
        said, _ = checkpoint.load_model(directory)(torch.from_numpy(x))
    return np.asarray(said)


def drawn(batch: int, steps: int, inputs: int) -> np.ndarray:
    return np.random.default_rng(steps).standard_normal((batch, steps, inputs)).astype(np.float32)


def test_the_model_of_a_complete_trial_has_its_run_and_its_results(
    place: Place, trained: TrialView
) -> None:
    tracker = place.tracker()
    tell(tracker, trained)
    tell(tracker, views(trained.spec.run)[1])  # a pruned trial has no model
    assert tracker.close(ENOUGH), tracker.behind
    run = place.trials()[0]
    assert_shows(place, [trained, views(trained.spec.run)[1]])
    (model,) = place.models()
    assert model.status == LoggedModelStatus.READY
    assert model.source_run_id == run.info.run_id
    assert run.outputs is not None
    assert [of.model_id for of in run.outputs.model_outputs] == [model.model_id]
    assert model.params == run.data.params
    assert model.tags["sabtune.number"] == "0"
    assert trained.outcome is not None
    digests = contexts(run)
    shown = {(m.key, m.step): (m.value, m.dataset_digest) for m in model.metrics or []}
    for result in trained.outcome.test:
        assert shown["test/accuracy", result.length] == (result.accuracy, digests["test"])
        at = f"test/accuracy_at_{result.length:04}"
        assert shown[at, 0] == (result.accuracy, digests["test"])
    for result in trained.outcome.ladder:
        assert shown["ladder/accuracy", result.length] == (result.accuracy, digests["selection"])
    assert not [key for key, _ in shown if key in ("loss", "score", "k_top")]


def test_a_logged_model_predicts_like_the_trained_one_at_any_length(
    place: Place, trained: TrialView
) -> None:
    tracker = place.tracker()
    tell(tracker, trained)
    assert tracker.close(ENOUGH), tracker.behind
    (found,) = place.models()
    assert trained.outcome is not None
    assert trained.outcome.checkpoint is not None
    mlflow.set_tracking_uri(place.uri)
    model = pyfunc.load_model(f"models:/{found.model_id}")
    for batch, steps in ((1, 1), (3, 15), (2, 640)):
        x = drawn(batch, steps, trained.spec.run.task.build().inputs)
        np.testing.assert_array_equal(
            model.predict(x), logits(Path(trained.outcome.checkpoint.address), x)
        )


@pytest.mark.parametrize(
    "config",
    [
        SAB.Config(hidden=24, k_top=3, k_att=2, k_trunc=4),
        SAB.Config(hidden=24, form="released"),
        LSTM.Config(hidden=24),
        SelfAttention.Config(hidden=24),
    ],
    ids=["sab", "released", "lstm", "self_attention"],
)
def test_every_kind_of_model_is_logged_to_the_bit(
    embedded: Place, config: ModelConfig, tmp_path: Path
) -> None:
    run = RunConfig.of(
        task=Copying.Config(length=5, symbols=2),
        trial=TrialConfig(model=config, train=TrainConfig(updates=2, report_every=2)),
        seed=3,
    )
    training = Training(run)
    assert len(list(training)) == 1
    training.save(tmp_path / "checkpoint")
    outcome = replace(COMPLETE, checkpoint=Folder.at(tmp_path / "checkpoint"))
    told = TrialView(spec=spec(run, 0), history=(), outcome=outcome)
    tracker = embedded.tracker()
    tell(tracker, told)
    assert tracker.close(ENOUGH), tracker.behind
    (found,) = embedded.models()
    mlflow.set_tracking_uri(embedded.uri)
    x = drawn(4, 33, training.task.inputs)
    with torch.no_grad():
        expected, _ = training.model.eval()(torch.from_numpy(x))
    said = pyfunc.load_model(f"models:/{found.model_id}").predict(x)
    np.testing.assert_array_equal(said, expected.numpy())


def test_a_logged_model_is_safe_to_load_and_names_its_requirements(
    embedded: Place, trained: TrialView, tmp_path: Path
) -> None:
    tracker = embedded.tracker()
    tell(tracker, trained)
    assert tracker.close(ENOUGH), tracker.behind
    (found,) = embedded.models()
    kept = Path(found.artifact_location.removeprefix("file://"))
    files = {path.relative_to(kept).as_posix() for path in kept.rglob("*") if path.is_file()}
    weights = {"run.json", "weights.safetensors", "progress.json"}
    assert {f"artifacts/checkpoint/{name}" for name in weights} <= files
    assert "pyfunc_model.py" in files
    assert not [name for name in files if re.search(r"\.(pkl|pickle|pt|pth|bin|joblib)$", name)]
    described = Model.load(str(kept))
    # This flavor entry would name a pickle.
    assert "python_model" not in described.flavors["python_function"]
    assert described.signature is not None
    signature = described.signature.to_dict()
    assert '"dtype": "float32", "shape": [-1, -1, 10]' in signature["inputs"]
    assert '"dtype": "float32", "shape": [-1, -1, 9]' in signature["outputs"]
    example: Any = described.load_input_example(str(kept))
    assert example.shape == (1, 9, 10)  # a sequence at the training length
    assert set(example.ravel()) == {0.0, 1.0}
    required = (kept / "requirements.txt").read_text().split()
    for package in ("sabtune", "torch", "numpy", "safetensors", "numba"):
        assert f"{package}=={version(package).partition('+')[0]}" in required
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in required)


def test_a_model_is_logged_once(place: Place, trained: TrialView) -> None:
    tracker = place.tracker()
    tell(tracker, trained)
    assert tracker.close(ENOUGH), tracker.behind
    before = place.everything()
    for _ in range(2):
        place.tracker().sync([trained], replace(state(), trials={}, space={}, question=""))
    again = place.everything()
    (search,) = place.searches()
    assert before.pop(search.info.run_id)
    assert again.pop(search.info.run_id)
    assert again == before


def test_sync_logs_the_models_that_mlflow_lacks(embedded: Place, trained: TrialView) -> None:
    """Check that sync adds a missing model, completes an unfinished one and removes a duplicate."""
    assert trained.outcome is not None
    bare = replace(trained, outcome=replace(trained.outcome, checkpoint=None))
    tracker = embedded.tracker()
    tracker.sync([bare], state())
    assert embedded.models() == []
    run, client = embedded.trials()[0].info.run_id, embedded.client
    tags = {"sabtune.number": "0"}
    client.create_logged_model(embedded.experiment, "trial-0", source_run_id=run, tags=tags)
    tracker.sync([trained], state())
    (model,) = embedded.models()
    assert model.status == LoggedModelStatus.READY
    shown = {(m.key, m.step): m.value for m in model.metrics or []}
    assert shown["test/accuracy", 10] == 0.5
    assert shown["length_score", 0] == embedded.trials()[0].data.metrics["length_score"]
    assert_shows(embedded, [trained])
    double = client.create_logged_model(embedded.experiment, "trial-0", run, tags=tags)
    client.finalize_logged_model(double.model_id, "READY")
    tracker.sync([trained], state())
    assert [of.model_id for of in embedded.models()] == [model.model_id]
    assert tracker.close(ENOUGH)


def test_a_damaged_checkpoint_loses_only_its_model(
    embedded: Place, trained: TrialView, tmp_path: Path
) -> None:
    assert trained.outcome is not None
    (tmp_path / "run.json").write_text("{")
    (tmp_path / "weights.safetensors").write_bytes(b"torn")
    (tmp_path / "progress.json").write_text("{}")
    torn = replace(trained, outcome=replace(trained.outcome, checkpoint=Folder.at(tmp_path)))
    told = [torn, numbered(trained, 1)]
    tracker = embedded.tracker()
    for view in told:
        tell(tracker, view)
    assert not tracker.close(ENOUGH)
    assert "run.json can't be read" in str(tracker.behind)
    assert_shows(embedded, told)
    assert [of.tags["sabtune.number"] for of in embedded.models()] == ["1"]
    with pytest.raises(TrackingError, match=r"everything except a model: .*run.json can't be read"):
        embedded.tracker().sync(told, state())
    assert embedded.searches()[0].info.status == "FINISHED"
    gone = replace(
        torn, outcome=replace(trained.outcome, checkpoint=Folder.at(tmp_path / "cleared"))
    )
    embedded.tracker().sync([gone, told[1]], state())  # a deleted checkpoint is no error


def test_a_failing_artifact_store_loses_only_the_model(trained: TrialView, tmp_path: Path) -> None:
    """Check artifacts that cannot be written while the database works, as on a full disk."""
    (tmp_path / "artifacts").write_text("a file, where a folder would be made")
    place = Place(f"sqlite:///{tmp_path / 'mlflow.db'}", "s", tmp_path / "artifacts")
    told = [trained, numbered(trained, 1)]
    tracker = place.tracker()
    for view in told:
        tell(tracker, view)
    assert not tracker.close(ENOUGH)
    assert "the model of trial 1 can't be logged: MLflow at sqlite:" in str(tracker.behind)
    assert_shows(place, told)
    (tmp_path / "artifacts").unlink()
    place.tracker().sync(told, state())
    assert len(place.models()) == 2


CONFIRMED = Version(trial=1, contest="s.confirm", seeds=10, accuracy=0.875, length=5000)


def champion(client: MlflowClient, study: str) -> dict[str, str]:
    """Return the tags of the model version with the champion alias."""
    return dict(client.get_model_version_by_alias(study, "champion").tags)


def test_the_alias_follows_the_champion_of_the_study(place: Place, trained: TrialView) -> None:
    told = [numbered(trained, number) for number in (0, 1)]
    tracker = place.tracker()
    for view in told:
        tell(tracker, view)
    first = tracker.register([Version(trial=0)], champion=0)
    assert first is not None, tracker.behind
    tags = champion(place.client, place.study)
    assert (tags["sabtune.number"], tags["sabtune.confirmed"]) == ("0", "false")
    again = tracker.register([Version(trial=0), Version(trial=1)], champion=0)
    assert champion(place.client, place.study) == tags
    assert again is not None
    assert again.keys() == {0, 1}
    assert again[0] == first[0]
    moved = tracker.register([Version(trial=0), CONFIRMED], champion=1)
    assert moved == again
    tags = champion(place.client, place.study)
    assert (tags["sabtune.number"], tags["sabtune.confirmed"]) == ("1", "true")
    assert tags["sabtune.confirmed_in"] == "s.confirm"
    assert tags["sabtune.confirmed_seeds"] == "10"
    assert tags["sabtune.confirmed_accuracy"] == "0.8750"
    assert tags["sabtune.confirmed_length"] == "5000"
    before = place.everything()
    assert place.tracker().register([Version(trial=0), CONFIRMED], champion=1) == moved
    assert place.everything() == before
    assert tracker.close(ENOUGH)
    mlflow.set_tracking_uri(place.uri)
    x = drawn(2, 20, told[1].spec.run.task.build().inputs)
    said = pyfunc.load_model(f"models:/{place.study}@champion").predict(x)
    assert trained.outcome is not None
    assert trained.outcome.checkpoint is not None
    np.testing.assert_array_equal(said, logits(Path(trained.outcome.checkpoint.address), x))


def test_a_registered_model_of_another_owner_is_unchanged(
    embedded: Place, trained: TrialView
) -> None:
    embedded.client.create_registered_model(embedded.study, {"owner": "anna"})
    tracker = embedded.tracker()
    tell(tracker, trained)
    assert tracker.register([Version(trial=0)], champion=0) is None
    assert "none of this study's: rename one" in str(tracker.behind)
    assert list(embedded.client.search_model_versions(f"name='{embedded.study}'")) == []
