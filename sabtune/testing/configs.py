"""Checks that every configuration must pass."""

from __future__ import annotations

import copy
import inspect
import json
from collections.abc import Callable
from dataclasses import fields

from sabtune.config import RunConfig, TrainConfig, TrialConfig
from sabtune.errors import ConfigError
from sabtune.models import LSTM, SAB, ModelConfig
from sabtune.schedule import Schedule
from sabtune.schema import Config, shown
from sabtune.tasks import Copying, TaskConfig
from sabtune.testing.result import Broken, expect, name_of

UPDATES = 4
"""The number of updates of a run that trains a part."""

PLAIN = "use fields of int, float, bool, str, None, tuples of these, and configurations"


def check_argument(config: object, base: type[Config], example: str) -> None:
    """Raise ConfigError unless `config` is an instance of `base`."""
    if not isinstance(config, base):
        raise ConfigError(f"config is {shown(config)}: give a configuration such as {example}")


def run_of(part: Config) -> RunConfig:
    """Return a small run that has this task, model or schedule."""
    task: TaskConfig = Copying.Config(length=3, symbols=2, alphabet=2)
    model: ModelConfig = LSTM.Config(hidden=2)
    train = TrainConfig(updates=UPDATES, batch_size=2, report_every=UPDATES // 2)
    match part:
        case TaskConfig():
            task = part
        case ModelConfig():
            model, train = (
                part,
                TrainConfig(
                    updates=UPDATES, batch_size=3, report_every=UPDATES // 2, initial="passed"
                ),
            )
        case Schedule():
            model = SAB.Config(hidden=2, schedule=part)
    return RunConfig.of(task=task, trial=TrialConfig(model=model, train=train), seed=0)


def check_config(config: Config, read: Callable[[RunConfig], Config]) -> None:
    """Check that a configuration is the same after it was stored as JSON and read again.

    read: returns the configuration from a run.
    """
    name = name_of(type(config))
    known = {field.name for field in fields(config)}
    for key, annotation in inspect.get_annotations(type(config)).items():
        undeclared = key not in known and "ClassVar" not in str(annotation)
        remedy = "decorate the class with @dataclass(frozen=True, kw_only=True)"
        expect(not undeclared, f"{name}.{key} is not a field: {remedy}")
    data = run_of(config).to_dict()
    try:
        text = json.dumps(data, allow_nan=False)
    except (TypeError, ValueError) as problem:
        raise Broken(
            f"to_dict returns a value that JSON does not have, {problem}: {PLAIN}"
        ) from None
    again = read(RunConfig.from_dict(json.loads(text)))
    expect(type(again) is type(config), f"from_dict returns {shown(again)} for {shown(config)}")
    for key in sorted(known):
        before, after = getattr(config, key), getattr(again, key)
        changed = f"{name}.{key} is {shown(before)}, and {shown(after)} after to_dict and from_dict"
        expect(bool(before == after), f"{changed}: {PLAIN}")
    for other, how in ((again, "after to_dict and from_dict"), (copy.deepcopy(config), "copied")):
        expect(config == other, f"{name} is not equal to itself {how}: keep the dataclass's ==")
        expect(_hash(config) == _hash(other), f"{name} has another hash {how}: {PLAIN}")


def _hash(config: Config) -> int:
    try:
        return hash(config)
    except TypeError as problem:
        raise Broken(f"{name_of(type(config))} has no hash, {problem}: {PLAIN}") from None
