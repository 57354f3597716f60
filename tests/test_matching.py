"""Test the width at which a model has a given number of parameters."""

from __future__ import annotations

import doctest
import inspect
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch

import sabtune as sab
from sabtune.errors import ConfigError
from sabtune.models import MODELS
from sabtune.schema import check
from tests.doc_blocks import block

TASK = sab.Adding.Config(length=20)


def size(config: sab.ModelConfig) -> int:
    """Count the parameters of a model for TASK, which has 2 inputs and 1 output."""
    model = config.build(2, 1, steps=20, generator=torch.Generator())
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("parameters", [3_000, 54_321])
def test_no_other_width_has_a_closer_number(kind: str, parameters: int) -> None:
    config = sab.matched(MODELS[kind](hidden=7), parameters=parameters, task=TASK)
    assert config == replace(MODELS[kind](), hidden=config.hidden)
    errors = [
        abs(size(replace(config, hidden=config.hidden + by)) - parameters) for by in (-1, 0, 1)
    ]
    assert errors[1] == min(errors)
    assert errors[1] < 0.05 * parameters


@pytest.mark.parametrize("kind", MODELS)
def test_a_reachable_number_is_reached(kind: str) -> None:
    for hidden in (1, 2, 33):
        config = MODELS[kind](hidden=hidden)
        assert sab.matched(MODELS[kind](), parameters=size(config), task=TASK) == config
        assert sab.matched(MODELS[kind](), parameters=config, task=TASK) == config


def test_other_settings_stay_as_they_are() -> None:
    config = sab.MinLSTM.Config(layers=3, forget_bias=2.0)
    found = sab.matched(config, parameters=50_000, task=TASK)
    assert replace(found, hidden=config.hidden) == config
    assert found.hidden < sab.matched(sab.MinLSTM.Config(), parameters=50_000, task=TASK).hidden


class Heads(sab.LSTM):
    """A model whose width must be a multiple of 8, and which reads its weights."""

    @dataclass(frozen=True, kw_only=True)
    class Config(sab.LSTM.Config):
        def __post_init__(self) -> None:
            super().__post_init__()
            check(self.hidden % 8 == 0, "hidden", self.hidden, "a multiple of 8")

        def build(self, *sizes: int, steps: int, generator: torch.Generator) -> Any:
            built = super().build(*sizes, steps=steps, generator=generator)
            assert float(built.b[0]) < 1
            return built


def test_widths_that_the_model_refuses_are_passed_over() -> None:
    for parameters in (1_000, 20_000, 100_000):
        found = sab.matched(Heads.Config(), parameters=parameters, task=TASK)
        errors = {width: abs(size(Heads.Config(hidden=width)) - parameters) for width in
                  range(8, 400, 8)}  # fmt: skip
        assert found.hidden == min(errors, key=lambda width: errors[width])


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ({"parameters": 10}, r"parameters is 10: LSTM, full BPTT has at least 22 parameters, at "
                             r"hidden=1; give another number or another model"),
        ({"parameters": 10**15}, r"parameters is 1,000,000,000,000,000: LSTM, full BPTT has at most"
                                 r" .* parameters, at hidden=1048576; give another"),
        ({"parameters": 0}, "parameters is 0: give a whole number of at least 1"),
        ({"parameters": 0.5}, r"parameters is 0\.5: give a whole number"),
        ({"parameters": 100, "task": "copying"}, "task is 'copying': give a configuration such as"),
        ({"parameters": 100, "model": sab.LSTM}, r"model is <class.*LSTM'>: give a configuration"),
    ],
)  # fmt: skip
def test_an_impossible_match_gets_one_line(arguments: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError, match=f"^{line}") as caught:
        sab.matched(**{"model": sab.LSTM.Config(), "task": TASK} | arguments)
    assert "\n" not in str(caught.value)


def test_the_example_runs() -> None:
    text = inspect.getdoc(sab.matched) or ""
    example = doctest.DocTestParser().get_doctest(text, {}, "matched", None, 0)
    assert doctest.DocTestRunner().run(example).failed == 0


def test_the_examples_of_the_documentation_run(capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {}
    exec(block("studies.md", "import sabtune as sab\n\ntask"), names)
    assert names["gru"] == sab.matched(
        sab.GRU.Config(), parameters=sab.SAB.Config(hidden=64), task=sab.Copying.Config(length=100)
    )
    exec(block("python.md", "import sabtune as sab\n\ntask"))
    assert capsys.readouterr().out.count("MinGRU.Config(hidden=") == 2
