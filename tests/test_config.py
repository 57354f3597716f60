"""Test that configurations convert to plain values and back, and reject unknown input."""

from __future__ import annotations

import json
import pickle
from typing import Any

import pytest

from sabtune import schema
from sabtune.config import PARTS, RunConfig, TrainConfig
from sabtune.errors import ConfigError
from sabtune.models import MODELS, SAB
from sabtune.schedule import SCHEDULES
from sabtune.tasks import TASKS
from tests.test_tasks import EXAMPLES

every_part = pytest.mark.parametrize(
    ("base", "kind", "part"),
    [(base, kind, part) for base, table in PARTS.items() for kind, part in table.items()],
    ids=[kind for table in PARTS.values() for kind in table],
)


def test_the_parts_are_models_tasks_and_schedules() -> None:
    assert list(PARTS.values()) == [MODELS, TASKS, SCHEDULES]


@every_part
def test_every_part_survives_a_round_trip(
    base: type[schema.Config], kind: str, part: type[schema.Config]
) -> None:
    config = EXAMPLES["sequences"].config if kind == "sequences" else part()
    plain = json.loads(json.dumps(schema.to_dict(config, PARTS)))
    assert plain["kind"] == kind
    assert schema.from_dict(base, plain, PARTS) == config


@every_part
def test_every_part_refuses_an_unknown_key(
    base: type[schema.Config], kind: str, part: type[schema.Config]
) -> None:
    with pytest.raises(ConfigError, match="has no key 'nonsense'"):
        part(nonsense=1)  # type: ignore[call-arg]


def test_a_run_survives_a_round_trip(run: RunConfig) -> None:
    assert RunConfig.from_dict(json.loads(json.dumps(run.to_dict()))) == run
    assert pickle.loads(pickle.dumps(run)) == run


def put(data: dict[str, Any], path: str, value: object) -> dict[str, Any]:
    *parents, last = path.split(".")
    inner = data
    for parent in parents:
        inner = inner[parent]
    inner[last] = value
    return data


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("trial.model.ktop", 3, r"RunConfig\.trial\.model has no key 'ktop': did you mean 'k_top'"),
        ("trial.model.k_top", "3", r"RunConfig\.trial\.model\.k_top is '3': give a value of type"),
        ("trial.model.k_top", True, r"k_top is True: give a value of type int"),
        ("trial.model.kind", "sba", r"RunConfig\.trial\.model\.kind is 'sba': did you mean 'sab'"),
        ("trial.train.learning_rate", -1.0, r"learning_rate is -1.0: give a rate above 0"),
        ("task.input", "two-hot", r"task\.input is 'two-hot': give 'one-hot' or 'scalar'"),
        ("trial.model.schedule.start", 0, r"start is 0: give a whole number of at least 1"),
        ("trial", 3, r"RunConfig\.trial is 3: give a mapping"),
    ],
)
def test_a_wrong_value_is_named_by_its_path(
    run: RunConfig, path: str, value: object, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        RunConfig.from_dict(put(run.to_dict(), path, value))


def test_a_missing_key_is_named(run: RunConfig) -> None:
    data = run.to_dict()
    del data["seed"]
    with pytest.raises(ConfigError, match="RunConfig lacks the key 'seed'"):
        RunConfig.from_dict(data)


def test_an_integer_is_accepted_for_a_real_number() -> None:
    rate = schema.from_dict(TrainConfig, {"learning_rate": 1}, PARTS).learning_rate
    assert (rate, type(rate)) == (1.0, float)


def test_flatten_joins_keys_with_dots() -> None:
    assert schema.flatten({"a": {"b": 1, "c": {"d": 2}}, "e": 3}) == {"a.b": 1, "a.c.d": 2, "e": 3}


def test_labels_name_the_sparsity() -> None:
    config = SAB.Config(k_top=5, k_att=2, k_trunc=10)
    assert config.label() == "k_top=5 k_att=2 k_trunc=10 constant"


def test_the_rate_falls_to_zero_over_the_last_share() -> None:
    train = TrainConfig(updates=100, learning_rate=1.0, decay=0.5)
    assert [train.rate(step) for step in (0, 50, 75, 99)] == [1.0, 1.0, 0.5, 0.02]
    assert TrainConfig(updates=100, learning_rate=1.0).rate(99) == 1.0


def test_the_rate_rises_from_zero_over_the_first_share() -> None:
    train = TrainConfig(updates=100, learning_rate=1.0, warmup=0.1, decay=0.1)
    assert [train.rate(step) for step in (0, 4, 9, 50, 95)] == [0.1, 0.5, 1.0, 1.0, 0.5]


@pytest.mark.parametrize("key", ["warmup", "decay"])
def test_a_share_of_the_updates_is_a_share(key: str) -> None:
    with pytest.raises(ConfigError, match=f"{key} is 1.5: give a share of the updates"):
        TrainConfig(**{key: 1.5})  # type: ignore[arg-type]
