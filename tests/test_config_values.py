"""Test that every configuration checks its values in Python as well as when it is read."""

from __future__ import annotations

import math
import pickle
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, get_type_hints

import numpy as np
import pytest

from sabtune.config import PARTS, RunConfig, TrainConfig, TrialConfig, _StoredRun
from sabtune.data.own_images import ImageContent
from sabtune.data.own_text import TextContent
from sabtune.errors import ConfigError
from sabtune.models import SAB
from sabtune.ops.reference import Rule
from sabtune.ops.self_attention import Attention
from sabtune.schedule import Linear
from sabtune.schema import Config, from_dict
from sabtune.study.configurations import Seeds
from sabtune.study.definition import ASHA, Resources, Study
from sabtune.study.stopping import NoImprovement, Solved, Target
from sabtune.tasks import Copying, Sequences
from sabtune.training.evaluation import Ladder
from sabtune.training.trial import Limits, TrialSpec
from tests.test_tasks import EXAMPLES as TASKS

LADDER = Ladder(lengths=(5, 10), select=(5,))
RUN = RunConfig.of(task=Copying.Config(length=5), trial=TrialConfig(model=SAB.Config()), seed=0)
STUDY = Study(name="name", task=RUN.task, ladder=LADDER, pruning=ASHA(grace=5))
SPEC = TrialSpec(number=0, configuration=0, run=RUN, ladder=LADDER, evaluation_seed=0, threads=1)

SEQUENCES = TASKS["sequences"].config
assert isinstance(SEQUENCES, Sequences.Config)
assert SEQUENCES.content is not None

EXAMPLES: list[Config] = [
    part() for table in PARTS.values() for part in table.values() if part is not Sequences.Config
]
EXAMPLES += [SEQUENCES, SEQUENCES.content]
EXAMPLES += [
    TextContent(sha256="0", characters=(1,)),
    ImageContent(sha256="0", height=1, width=1, channels=1, classes=(), images=(1,), majority=0.5),
]
EXAMPLES += [LADDER, RUN, RUN.trial, TrainConfig(), STUDY, Resources(), ASHA(grace=1), Seeds()]
EXAMPLES += [Limits(), SPEC, Rule(), Attention()]
EXAMPLES += [NoImprovement(configurations=1), Target(score=0.5), Solved(seeds=1)]

every_config = pytest.mark.parametrize("config", EXAMPLES, ids=lambda c: type(c).__qualname__)


def wrong(hint: Any) -> list[object]:
    """Return values that an annotation excludes."""
    bad: list[object] = [object(), b"bytes", 1j, np.zeros(2), [None]]
    if hint is int:
        bad += [True, "1", 1.5, 2.0, math.nan, 2**70, 10**5000, None, np.float64(1), np.True_]
    if hint is float:
        bad += [True, "1", math.nan, math.inf, -math.inf, 10**400, None, np.float32("nan")]
    if hint == float | None:
        bad += [True, "1", math.nan, math.inf]
    if hint == int | None:
        bad += [True, "1", 1.5]
    if isinstance(hint, type) and issubclass(hint, Config):
        bad += ["linear", {}, {"cpus": 2}, None, 3, Linear]
    if hint is str:
        bad += [5, None]
    return bad


def changed(config: Config, **values: Any) -> Config:
    return replace(config, **values)


def test_every_configuration_is_tested() -> None:
    def below(cls: type[Config]) -> set[type[Config]]:
        return {cls}.union(*(below(sub) for sub in cls.__subclasses__()))

    ours = {cls for cls in below(Config) if cls.__module__.startswith("sabtune.")}
    abstract = {cls for cls in ours if getattr(cls, "__abstractmethods__", ())}
    ours -= {_StoredRun}  # the stored form of a RunConfig
    assert ours - abstract - {Config} == {type(config) for config in EXAMPLES}


@every_config
def test_a_value_of_a_wrong_type_is_one_line(config: Config) -> None:
    hints = get_type_hints(type(config))
    for field in fields(config):
        for value in wrong(hints[field.name]):
            with pytest.raises(ConfigError, match=rf"{field.name}\b.* is .*: give ") as caught:
                replace(config, **{field.name: value})
            assert "\n" not in str(caught.value)
            assert len(str(caught.value)) < 400


@every_config
def test_a_configuration_accepts_its_own_values(config: Config) -> None:
    values = {field.name: getattr(config, field.name) for field in fields(config)}
    assert type(config)(**values) == config
    assert pickle.loads(pickle.dumps(config)) == config


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: SAB.Config(normalizer="max"), r"normalizer is 'max': give 'sum' or 'softmax'$"),  # type: ignore[arg-type]
        (lambda: SAB.Config(form="Released"), r"'Released': give one of paper, released, early$"),  # type: ignore[arg-type]
        (lambda: SAB.Config(schedule="linear"), r"schedule is 'linear': give .* Schedule$"),  # type: ignore[arg-type]
        (lambda: SAB.Config(k_topp=1), r"no key 'k_topp': did you mean 'k_top'\?$"),  # type: ignore[call-arg]
        (lambda: SAB.Config(5), r"^SAB\.Config has 5 without a name: write name=value$"),  # type: ignore[call-arg]
        (lambda: ASHA(), r"^ASHA lacks the key 'grace': add it$"),  # type: ignore[call-arg]
        (lambda: Linear(start="some"), r"Linear\.start is 'some': give .* int or 'all'$"),  # type: ignore[arg-type]
        (lambda: changed(STUDY, points=(3,)), r"points\[0\] is 3: give a mapping"),
        (lambda: changed(STUDY, points={"k_top": 3}), r"points is \{'k_top': 3\}: give a list"),
        (lambda: changed(STUDY, objectives="score"), r"objectives is 'score': give a list"),
        (lambda: changed(STUDY, pruning="asha"), r"pruning is 'asha': give .* ASHA or None$"),
        (lambda: changed(STUDY, resources={"cpus": 2}), r"resources is .* type Resources$"),
        (lambda: changed(LADDER, lengths=(5, "10")), r"lengths\[1\] is '10': give"),
    ],
)
def test_the_message_names_the_value_and_the_remedy(build: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build()


def test_the_error_can_be_sent_to_another_process() -> None:
    with pytest.raises(ConfigError) as caught:
        SAB.Config(hidden="many")  # type: ignore[arg-type]
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_equivalent_values_become_plain_python_values() -> None:
    model = SAB.Config(hidden=np.int64(8), epsilon=np.float32(0.5), forget_bias=1)  # type: ignore[arg-type]
    assert (model.hidden, model.epsilon, model.forget_bias) == (8, 0.5, 1.0)
    assert [type(v) for v in (model.hidden, model.epsilon, model.forget_bias)] == [
        int,
        float,
        float,
    ]
    assert Ladder(lengths=[5, 10], select=range(5, 6)) == LADDER  # type: ignore[arg-type]
    assert hash(Ladder(lengths=[5, 10], select=[5])) == hash(LADDER)  # type: ignore[arg-type]


def test_a_local_configuration_checks_what_it_can() -> None:
    """Annotations with a class local to a function can't be resolved; the others are checked."""

    class Unknown: ...

    @dataclass(frozen=True, kw_only=True)
    class Local(Linear):
        word: Literal["one", "two"] = "one"

    @dataclass(frozen=True, kw_only=True)
    class Other(Linear):
        of: Unknown | None = None

    with pytest.raises(ConfigError, match=r"^Local\.word is 'three': give 'one' or 'two'"):
        Local(word="three")  # type: ignore[arg-type]
    assert isinstance(Other(of=Unknown()).of, Unknown)
    with pytest.raises(ConfigError, match=r"^Other\.share is 'half'"):
        Other(share="half")  # type: ignore[arg-type]


def test_an_error_in_a_dict_names_the_path() -> None:
    data = {"model": {"kind": "sab", "schedule": {"kind": "linear", "share": math.nan}}}
    with pytest.raises(ConfigError, match=r"^TrialConfig\.model\.schedule\.share is nan: give a f"):
        from_dict(TrialConfig, data, PARTS)
