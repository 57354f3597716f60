"""Test the checks of parts: own parts pass, and each broken part gets the line that says why."""

from __future__ import annotations

import doctest
import importlib
import inspect
import math
import pickle
import random
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

import sabtune as sab
from sabtune.config import PARTS
from sabtune.errors import ConfigError, ConformanceError, SabtuneError
from sabtune.models import Model, ModelConfig
from sabtune.models.base import uniform
from sabtune.schedule import Moving, Schedule
from sabtune.schema import Config
from sabtune.seeding import Stream
from sabtune.tasks import Batch, Source, Task, TaskConfig
from sabtune.tasks.base import SyntheticTask
from sabtune.tasks.batch import CPU, last, moved, one_hot
from sabtune.tasks.source import Drawn, Shuffled
from sabtune.testing import CheckResult, check_model, check_schedule, check_task
from sabtune.testing.models import ModelChecks
from sabtune.testing.schedules import ScheduleChecks
from sabtune.testing.tasks import TaskChecks
from tests.doc_blocks import block


class FirstBit(SyntheticTask):
    """Recall the first of `length` random bits at the last step."""

    inputs = 2
    outputs = 2
    chance = 0.5
    loss_everywhere = False

    @dataclass(frozen=True, kw_only=True)
    class Config(TaskConfig):
        length: int = 20
        note: Any = None

        def build(self) -> Task:
            return FirstBit(self)

    def steps(self, length: int) -> int:
        return length

    def batch(
        self, size: int, length: int, generator: torch.Generator, device: torch.device = CPU
    ) -> Batch:
        bits = torch.randint(0, 2, (size, length), generator=generator)
        targets = torch.zeros_like(bits)
        targets[:, -1] = bits[:, 0]
        return Batch(
            x=one_hot(moved(bits, device), 2),
            targets=moved(targets, device),
            scored=last(1, length),
        )


@dataclass(frozen=True)
class Hidden:
    """The state of a GRU: h (1, B, H)."""

    h: Tensor


class GRU(Model):
    """PyTorch's GRU with a linear readout."""

    @dataclass(frozen=True, kw_only=True)
    class Config(ModelConfig):
        def label(self) -> str:
            return "gru"

        def build(
            self, inputs: int, outputs: int, *, steps: int, generator: torch.Generator
        ) -> Model:
            return GRU(self, inputs, outputs, generator)

    state_type = Hidden

    def __init__(self, config: ModelConfig, inputs: int, outputs: int, generator: torch.Generator):
        super().__init__()
        self.config = config
        self.gru = nn.GRU(inputs, config.hidden, batch_first=True)
        self.readout = nn.Linear(config.hidden, outputs)
        with torch.no_grad():
            for weight in self.parameters():
                weight.copy_(uniform(*weight.shape, fan_in=config.hidden, generator=generator))

    def forward(self, x: Tensor, state: Hidden | None = None) -> tuple[Tensor, Hidden]:
        hidden, h = self.gru(x, None if state is None else state.h)
        return self.readout(hidden), Hidden(h)

    def carry(self, state: Hidden, span: int) -> Hidden:
        return Hidden(state.h.detach())

    def random_start(self, batch: int, scale: float, generator: torch.Generator) -> Hidden:
        h = scale * torch.randn((1, batch, self.gru.hidden_size), generator=generator)
        return Hidden(h.to(self.device, self.readout.weight.dtype))

    def restart(self, state: Hidden) -> Hidden:
        return Hidden(state.h.detach())


@dataclass(frozen=True, kw_only=True)
class Sudden(Schedule):
    """A schedule that attends to everything in the first half of training."""

    def k_top(self, progress: float, final: int, dense: int) -> int:
        return dense if progress < 0.5 else final


def test_a_task_of_ones_own_passes() -> None:
    state = torch.get_rng_state()
    result = check_task(FirstBit.Config())
    assert torch.equal(torch.get_rng_state(), state)
    assert result.sequences_per_second is not None
    assert result.sequences_per_second > 0
    text = str(result)
    assert text.startswith("FirstBit.Config passes 15 checks: config, attributes, steps, batches")
    assert f"{result.sequences_per_second:,.0f} sequences per second" in text


def test_a_model_of_ones_own_passes() -> None:
    with torch.no_grad():
        result = check_model(GRU.Config(hidden=6), inputs=2, outputs=5, steps=11)
    assert len(result.checks) == 17
    assert not [note for note in result.notes if not note.startswith("devices: ")]
    if not torch.cuda.is_available():
        assert result.notes == ("devices: no CUDA device: the model stayed on the CPU",)


def test_a_schedule_of_ones_own_passes() -> None:
    assert check_schedule(Sudden()).checks == ("config", "values", "ends")


METACLASS: Any = type(Config)


def broken_task(**changes: Any) -> TaskConfig:
    """Return the configuration of a `FirstBit` with other members; `config` has those of Config."""
    values = {"note": changes.pop("note", None)}
    members: dict[str, Any] = {"__qualname__": "Broken.Config", "__module__": __name__}
    members["build"] = lambda config: task(config)
    members |= changes.pop("config", {})
    task: Any = type("Broken", (FirstBit,), changes)
    config: Any = METACLASS("Config", (FirstBit.Config,), members)
    return config(**values)  # type: ignore[no-any-return]


def broken(*_: object, **__: object) -> Any:
    raise ZeroDivisionError("one\ntwo")


def draws(change: Callable[[Batch], Batch]) -> dict[str, Any]:
    """Return a `batch` that changes the batches of `FirstBit`."""

    def batch(self: Any, *arguments: Any, **options: Any) -> Batch:
        return change(FirstBit.batch(self, *arguments, **options))

    return {"batch": batch}


def reads(parts: bool, source: type[Shuffled] = Shuffled) -> dict[str, Any]:
    """Return `batches` that read 40 sequences, with parts for each stream or without."""

    def batches(
        self: Any, length: int, stream: Stream, generator: Any, device: Any = CPU
    ) -> Source:
        seed = int(stream) if parts else 0
        data = FirstBit.batch(self, 40, length, torch.Generator().manual_seed(seed), device)

        def make(numbers: Tensor) -> Batch:
            return replace(data, x=data.x[numbers], targets=data.targets[numbers])

        return source(40, make, generator, device)

    return {"batches": batches, "batch": Task.batch}


class Forgetful(Shuffled):
    """A source that does not store its position."""

    def state(self) -> dict[str, Tensor]:
        return super().state() | {"cursor": torch.tensor(0)}


class Careless(Shuffled):
    """A source that ignores missing entries of a state."""

    def restore(self, state: Any) -> None:
        if state:
            super().restore(state)


def of_latest(self: Any, length: int, _: object, generator: Any, device: Any = CPU) -> Source:
    """Return a source that draws from the generator of the latest source."""
    self.generator = generator
    return Drawn(lambda size, _: self.batch(size, length, self.generator, device), generator)


def no_single_step(_: object, length: int) -> int:
    if length == 1:
        raise ConfigError("length is 1: give more")
    return length


def unchecked(self: Any, length: int, _: object, generator: Any, device: Any = CPU) -> Source:
    return Drawn(lambda size, drawn: self.batch(size, length, drawn, device), generator)


def from_one_seed(self: Any, size: int, length: int, _: object, device: Any = CPU) -> Batch:
    return FirstBit.batch(self, size, length, torch.Generator().manual_seed(3), device)


def rising(self: Any, logits: Tensor, targets: Tensor) -> Tensor:
    """Compute a training loss that rises with the number of updates."""
    calls: int = getattr(self, "calls", 0) + logits.requires_grad
    self.calls = calls
    factor = 1 + calls if logits.requires_grad else 1
    return cross_entropy(logits, targets) * factor


def scored_only(self: Any, logits: Tensor, batch: Batch) -> Tensor:
    answers, targets = batch.at_scored(logits), batch.at_scored(batch.targets)
    loss: Tensor = cross_entropy(answers[:, 0], targets[:, 0])
    return loss


def undivided(_: object, logits: Tensor, targets: Tensor) -> Tensor:
    return cross_entropy(logits, targets, reduction="sum") / math.sqrt(len(targets))


Faults = list[tuple[str, dict[str, Any], str]]
"""The check that fails, what is broken, and a pattern of the message."""

TASK_FAULTS: Faults = [
    (
        "config",
        {"note": {1, 2}},
        r"to_dict returns a value that JSON does not have, .* set .*: use",
    ),
    ("config", {"note": (1, 2)}, r"\.note is \(1, 2\), and \[1, 2\] after to_dict and from_dict"),
    ("config", {"note": [1]}, r"has no hash, unhashable type: 'list': use fields of int, float"),
    ("config", {"config": {"__eq__": lambda a, b: a is b}}, r"not equal to itself after to_dict"),
    ("config", {"config": {"__annotations__": {"size": int}}}, r"\.size is not a field: decorate"),
    ("attributes", {"config": {"build": lambda _: 3}}, r"build returns 3: return a Task"),
    ("attributes", {"inputs": 2.0}, r"Broken\.inputs is 2\.0: give an int from 1"),
    ("attributes", {"length": 7, "__init__": lambda *_: None}, r"length is 7: set it to .*, 20$"),
    ("attributes", {"chance": 1.0}, r"chance is 1\.0: give a number from 0 below 1"),
    ("attributes", {"solved": 0.4}, r"solved is 0\.4: give a number above `chance`, 0\.5, and"),
    ("attributes", {"unit": math.nan}, r"unit is nan: give a number above 0"),
    ("attributes", {"memory_span": -1}, r"memory_span is -1: give None, or an int of at least 0"),
    ("attributes", {"loss_unit": "a\nb"}, r"loss_unit is 'a\\nb': give words such as"),
    ("steps", {"steps": lambda _, n: n - 1}, r"Broken\.steps\(1\) is 0: give an int of at least 1"),
    (
        "steps",
        {"steps": broken},
        r"broken raised ZeroDivisionError: one two \(the check: `steps` r",
    ),
    (
        "batches",
        {"steps": lambda _, n: n + 1},
        r"x has shape \(1, 1, 2\): give \(1, 2, 2\), \(B, T",
    ),
    (
        "batches",
        {"steps": no_single_step, "batches": unchecked},
        r"batches accepts length 1, which",
    ),
    (
        "batches",
        {"prepare": broken},
        r"broken raised ZeroDivisionError: one two \(the check: shape",
    ),
    (
        "batches",
        draws(lambda b: replace(b, x=b.x.double())),
        r"x is torch\.float64: give torch\.fl",
    ),
    ("batches", draws(lambda b: replace(b, x=b.x / 0)), r"x has numbers that are not finite: repl"),
    (
        "batches",
        draws(lambda b: replace(b, targets=b.targets + 1)),
        r"from 2 to 2: give classes fr",
    ),
    (
        "batches",
        draws(lambda b: replace(b, targets=b.targets.int())),
        r"targets is torch\.int32: g",
    ),
    (
        "batches",
        draws(lambda b: replace(b, scored=b.scored & False)),
        r"scored has no step of a sequence: mark a",
    ),
    (
        "batches",
        draws(lambda b: replace(b, scored=b.scored.int())),
        r"scored is torch\.int32: give",
    ),
    (
        "batches",
        draws(lambda b: replace(b, continues=True)),
        r"continues a batch: only with `memor",
    ),
    ("batches", draws(lambda b: b.x), r"returns a Tensor: return a Batch"),  # type: ignore[arg-type,return-value]
    (
        "determinism",
        draws(lambda b: replace(b, x=b.x + torch.rand(()))),
        r"Broken\.batch gives othe",
    ),
    (
        "determinism",
        draws(lambda b: replace(b, x=b.x + random.random())),
        r"random seed changes: dr",
    ),
    (
        "determinism",
        {"batch": from_one_seed},
        r"same sequences for generators of diff",
    ),
    (
        "determinism",
        {"batches": of_latest},
        r"if another source draws in between \(TRAINING\): sha",
    ),
    (
        "determinism",
        reads(parts=True) | {"batch": FirstBit.batch},
        r"Broken\.batch differs from `ba",
    ),
    ("restoring", reads(parts=True, source=Forgetful), r"Forgetful\.restore continues with other"),
    ("restoring", reads(parts=True, source=Careless), r"Careless\.restore accepts an empty state"),
    (
        "devices",
        draws(lambda b: replace(b, x=b.x * b.x.max().item())),
        r"raised .*\(the check: batc",
    ),
    (
        "devices",
        draws(lambda b: replace(b, x=torch.zeros(b.x.shape)) if b.x.is_meta else b),
        r"Broken\.batch: x is on cpu, not on the requested meta: move it, with sabtune\.tasks\.ba",
    ),
    (
        "streams",
        reads(parts=False),
        r"batches gives TRAINING and SELECTION the same sequences, \d+ ",
    ),
    ("loss", {"criterion": lambda _, x, t: (x * 0).log().sum()}, r"loss is -inf for random logits"),
    (
        "loss",
        {"criterion": lambda _, x, t: x.detach().sum()},
        r"loss has no gradient: compute it f",
    ),
    (
        "loss",
        {"criterion": lambda _, x, t: x.sum(dim=0)},
        r"loss has shape \(2,\): return one numb",
    ),
    ("loss", {"criterion": lambda _, x, t: (x * 0).sqrt().sum()}, r"a gradient that is not finite"),
    ("loss", {"loss": lambda _, x, b: x.square().mean()}, r"covers steps that are not scored, but"),
    (
        "loss",
        {"loss_everywhere": True, "loss": scored_only},
        r"covers the scored steps only, but B",
    ),
    (
        "tally",
        {"loss_everywhere": True, "criterion": undivided},
        r"make the loss a mean over its s",
    ),
    (
        "perfect answers",
        {"right": lambda _, x, t: x.argmax(-1) != t},
        r"right gives correct answers",
    ),
    (
        "perfect answers",
        {"criterion": lambda _, x, t: -cross_entropy(x, t)},
        r"make it lower for c",
    ),
    (
        "perfect answers",
        {"normalized_score": lambda _, a, l: a / 2},
        r"is 0\.5 for correct answers",
    ),
    (
        "chance",
        {"normalized_score": lambda _, a, l: max(0, 2 * a - 1) + (l == math.inf)},
        r"is 1 for a loss of infinity: give 0",
    ),
    (
        "chance",
        {"chance": 0.25},
        r"constant answer has accuracy 0\.\d+, above chance, 0\.25: set Br",
    ),
    (
        "chance",
        {"chance": 0.75},
        r"best constant answer has accuracy 0\.\d+, below chance, 0\.75: ",
    ),
    (
        "chance",
        {"normalized_score": lambda _, a, l: a},
        r"is 0\.5 for accuracy `chance` and the los",
    ),
    (
        "chance",
        {"chance": 0.25, "normalized_score": lambda _, a, l: max(0, (a - 0.25) / 0.75)},
        r"normalized_score is 0\.\d+ for a constant answer: give 0",
    ),
    ("recalled steps", {"sources": lambda _, x: torch.tensor([[9, 9]])}, r"give 1 ≤ i < t ≤ 20$"),
    (
        "recalled steps",
        {"sources": lambda _, x: torch.tensor([[2, 1]])},
        r"but step 2 is not scored",
    ),
    (
        "varied lengths",
        {"varied": lambda self, _, g: unchecked(self, 40, 0, g)},
        r"gives 40 steps: ",
    ),
    (
        "training",
        {"criterion": rising},
        r"resumes in another state: its loss is .*: check the state",
    ),
]


def failing(check: Callable[..., CheckResult], part: Config, **options: Any) -> ConformanceError:
    """Return the error of a broken part, which must be one line."""
    with pytest.raises(ConformanceError) as caught:
        check(part, **options)
    assert isinstance(caught.value, AssertionError)
    assert isinstance(caught.value, SabtuneError)
    assert "\n" not in str(caught.value)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    return caught.value


def each(faults: Faults) -> pytest.MarkDecorator:
    """Run a test for each fault."""
    ids = [f"{check}-{number}" for number, (check, *_) in enumerate(faults)]
    return pytest.mark.parametrize(("check", "changes", "reason"), faults, ids=ids)


@each(TASK_FAULTS)
def test_a_broken_task_gets_the_line_that_says_why(
    check: str, changes: dict[str, Any], reason: str
) -> None:
    error = failing(check_task, broken_task(**changes))
    assert str(error).startswith(f"Broken.Config fails the check {check!r}: ")
    assert re.search(reason, str(error)), error
    assert error.check == check


def test_a_guess_must_have_the_accuracy_of_chance() -> None:
    check_task(FirstBit.Config(), guess=lambda task, batch: one_hot(batch.targets * 0, 2))
    error = failing(
        check_task, FirstBit.Config(), guess=lambda task, batch: one_hot(batch.targets, 2)
    )
    assert "`guess` has accuracy 1, and chance is 0.5: set FirstBit.chance to" in str(error)


class Half(FirstBit):
    """A task whose answer is a number, the first bit or a half of it."""

    outputs = 1
    chance = 0.5
    batch = draws(lambda b: replace(b, targets=b.targets / 2))["batch"]

    @dataclass(frozen=True, kw_only=True)
    class Config(TaskConfig):
        length: int = 5

        def build(self) -> Task:
            return Half(self)

    def criterion(self, logits: Tensor, targets: Tensor) -> Tensor:
        return (logits[:, 0] - targets).square().mean()

    def right(self, logits: Tensor, targets: Tensor) -> Tensor:
        return (logits[..., 0] - targets).abs() < 0.1


def test_a_task_of_numbers_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(check_task(Half.Config()).checks) == 15
    monkeypatch.setattr(Half, "chance", 0.1)
    error = str(failing(check_task, Half.Config()))
    assert re.search(r"a constant answer has accuracy 0\.\d+, above chance, 0\.1: set Half", error)


def test_a_task_with_the_logit_of_a_class_passes() -> None:
    def criterion(_: object, logits: Tensor, targets: Tensor) -> Tensor:
        return binary_cross_entropy_with_logits(logits[:, 0], targets.float())

    members: dict[str, Any] = {"outputs": 1, "criterion": criterion}
    members["right"] = lambda _, logits, targets: (logits[..., 0] > 0) == targets
    assert len(check_task(broken_task(**members)).checks) == 15
    members["right"] = lambda _, logits, targets: (logits[..., 0] < 0) == targets
    assert failing(check_task, broken_task(**members)).check == "perfect answers"


def test_a_note_names_what_is_not_checked() -> None:
    """The kit does not know the logits of a correct or a constant answer of two numbers."""
    members: dict[str, Any] = draws(lambda b: replace(b, targets=b.targets.float()))
    members["criterion"] = lambda _, x, t: (x[:, 1] - t).square().mean()
    members["right"] = lambda _, x, t: (x[..., 1] - t).abs() < 0.5
    notes = check_task(broken_task(**members)).notes
    assert "perfect answers: the logits of a correct answer are not known" in notes
    assert "chance: no constant answer is known: give `guess` to check it" in notes


def broken_model(**changes: Any) -> ModelConfig:
    """Return the configuration of a `GRU` with other members; `config` has those of Config."""

    def build(config: Any, inputs: int, outputs: int, *, steps: int, generator: Any) -> Model:
        return model(config, inputs, outputs, generator)  # type: ignore[no-any-return]

    members = {"__qualname__": "Broken.Config", "__module__": __name__, "build": build}
    members |= changes.pop("config", {})
    model: Any = changes.pop("model", None) or type("Broken", (GRU,), changes)
    config: Any = METACLASS("Config", (GRU.Config,), members)
    return config(hidden=6)  # type: ignore[no-any-return]


def computes(change: Callable[[Any, Tensor, Tensor], Tensor]) -> dict[str, Any]:
    """Return a `forward` whose logits are `change(model, x, logits)`."""

    def forward(self: Any, x: Tensor, state: Hidden | None = None) -> tuple[Tensor, Hidden]:
        logits, after = GRU.forward(self, x, state)
        return change(self, x, logits), after

    return {"forward": forward}


def adds(**attributes: Callable[[Tensor], Any]) -> dict[str, Any]:
    """Return an `__init__` that sets attributes, computed from a random number."""

    def init(self: Any, config: ModelConfig, inputs: int, outputs: int, generator: Any) -> None:
        GRU.__init__(self, config, inputs, outputs, generator)
        drawn = torch.randn(outputs, generator=generator)
        for name, make in attributes.items():
            setattr(self, name, make(drawn))

    return {"__init__": init}


class Default(GRU):
    """A GRU with the weights that PyTorch draws from its own generator."""

    def __init__(self, config: ModelConfig, inputs: int, outputs: int, _: object):
        super().__init__(config, inputs, outputs, torch.Generator())
        self.readout = nn.Linear(config.hidden, outputs)


class Local(GRU):
    """A GRU that pickle can't store."""

    @dataclass(frozen=True, kw_only=True)
    class Config(GRU.Config):
        def build(
            self, inputs: int, outputs: int, *, steps: int, generator: torch.Generator
        ) -> Model:
            return Local(self, inputs, outputs, generator)

    def __init__(self, *arguments: Any):
        super().__init__(*arguments)
        self.hook = lambda: None


class Remembering(GRU):
    """A GRU whose state has the h of every call."""

    def forward(self, x: Tensor, state: Hidden | None = None) -> tuple[Tensor, Hidden]:
        logits, after = super().forward(x, state and Hidden(state.h[-1:]))
        return logits, Hidden(torch.cat([state.h, after.h]) if state else after.h)


def float32_start(self: Any, x: Tensor, state: Hidden | None = None) -> tuple[Tensor, Hidden]:
    return GRU.forward(self, x, state or Hidden(torch.zeros(1, len(x), self.gru.hidden_size)))


def in_place(self: Any, x: Tensor, state: Hidden | None = None) -> tuple[Tensor, Hidden]:
    logits, after = GRU.forward(self, x, state)
    if state is not None:
        state.h.data.copy_(after.h)
    return logits, after


def amnesic(self: Any, x: Tensor, state: Hidden | None = None) -> tuple[Tensor, Hidden]:
    return GRU.forward(self, x)


def untyped(self: Any, x: Tensor, state: Any = None) -> Any:
    logits, after = GRU.forward(self, x, state and Hidden(state))
    return logits, after.h


def counted(self: Any, x: Tensor, logits: Tensor) -> Tensor:
    self.calls += 1
    return logits


def progressing(self: Any, progress: float) -> None:
    self.updates = getattr(self, "updates", 0) + 1


def ones(self: Any, batch: int, scale: float, generator: Any) -> Hidden:
    return Hidden(self.readout.weight.new_ones(1, batch, self.gru.hidden_size))


def unscaled(self: Any, batch: int, scale: float, generator: Any) -> Hidden:
    return GRU.random_start(self, batch, 1.0, generator)


def from_global(self: Any, batch: int, scale: float, generator: Any) -> Hidden:
    return GRU.random_start(self, batch, scale, torch.default_generator)


MODEL_FAULTS: Faults = [
    ("config", {"config": {"__eq__": lambda a, b: a is b}}, r"not equal to itself after to_dict"),
    ("description", {"config": {"label": lambda _: "a\nb"}}, r"label\(\) is 'a\\nb': return a few"),
    ("description", {"config": {"legend": lambda _: ""}}, r"legend\(\) is '': return a few words"),
    ("description", {"config": {"period": 0}}, r"Broken\.Config\.period is 0: return an int of at"),
    (
        "description",
        {"config": {"share_kept": lambda *_: 1.5}},
        r"share_kept\(1\) is 1\.5: return N",
    ),
    ("shapes", {"model": lambda *_: nn.Identity()}, r"build returns a Identity: return a Model"),
    ("shapes", {"period": 4}, r"Broken\.period is 4, that of its Config 1: return it"),
    ("shapes", {"multiply_adds": lambda *_: -1}, r"Broken\.multiply_adds\(4, 19\) is -1: return a"),
    ("shapes", computes(lambda m, x, y: y[:, -1]), r"returns logits \(1, 3\): return \(1, 1, 3\)"),
    (
        "shapes",
        computes(lambda m, x, y: y.double()),
        r"returns torch\.float64 logits for float32 x",
    ),
    ("shapes", computes(lambda m, x, y: y / 0), r"returns logits that are not finite at its first"),
    (
        "shapes",
        {"forward": untyped},
        r"forward returns a Tensor as the state: return Hidden, the s",
    ),
    (
        "shapes",
        {"forward": broken},
        r"broken raised ZeroDivisionError: one two \(the check: logits",
    ),
    (
        "determinism",
        {"model": Default},
        r"^.*readout\.\w+ changes with the global random seed: dra",
    ),
    (
        "determinism",
        computes(lambda m, x, y: nn.functional.dropout(y)),
        r"use no random numbers suc",
    ),
    (
        "determinism",
        {"model": lambda a, b, c, _: GRU(a, b, c, torch.Generator())},
        r"weights are the same fo",
    ),
    (
        "precision",
        {"forward": float32_start},
        r"float32_start raised .*\(the check: the model can ",
    ),
    (
        "progress",
        {"in_force": lambda _: {"k_top": "5"}},
        r"in_force\(\) is \{'k_top': '5'\}: return f",
    ),
    ("progress", {"settled": False}, r"Broken\.settled is False at progress 1: return True"),
    (
        "progress",
        {"set_progress": lambda self, p: self.readout.bias.data.add_(p)},
        r"Broken\.set_progress changes readout\.bias: leave the weights as they are",
    ),
    (
        "streaming",
        {"forward": amnesic},
        r"differ by 0?\.?\d.* in calls of 1 step: put all that late",
    ),
    (
        "streaming",
        {"forward": in_place},
        r"forward changes h of the given state: return a new stat",
    ),
    (
        "batch independence",
        computes(lambda m, x, y: y - y.mean(0)),
        r"of 1 and of 5: compute",
    ),
    (
        "gradients",
        adds(extra=nn.Parameter),
        r"extra has no gradient after 19 steps: use it in forw",
    ),
    (
        "gradients",
        adds(extra=nn.Parameter) | computes(lambda m, x, y: y + (m.extra * 0).sqrt()),
        r"extra has a gradient that is not finite after 19 steps",
    ),
    (
        "evaluation",
        computes(lambda m, x, y: y if m.training else 2 * y),
        r"after eval\(\): models ar",
    ),
    (
        "evaluation",
        adds(calls=lambda d: nn.Buffer(d * 0)) | computes(counted),
        r"forward changes calls: only the optimizer changes weights",
    ),
    (
        "saving",
        {"get_extra_state": lambda _: {"k": 1}},
        r"_extra_state of the state_dict is a dict: ",
    ),
    (
        "saving",
        adds(offset=lambda d: d) | computes(lambda m, x, y: y + m.offset),
        r"after restoring its state_dict in another model: keep all that forward needs in param",
    ),
    (
        "state",
        {"state_of": lambda _, t: Hidden(t["h"] * 0)},
        r"state_of gives another h: restore ev",
    ),
    (
        "carrying",
        {"carry": lambda _, state, span: state},
        r"carry keeps the gradient of h: detach it",
    ),
    (
        "carrying",
        {"carry": lambda _, state, span: Hidden(state.h.detach() * 0)},
        r"carry gives a state whose logits differ by .* from those of the given one: continue its",
    ),
    (
        "carrying",
        {"model": Remembering},
        r"carry gives a state of 54 numbers after 24 steps and of 108 after 48: drop memories",
    ),
    (
        "random start",
        {"random_start": from_global},
        r"gives another h if the global seed changes: ",
    ),
    (
        "random start",
        {"random_start": ones},
        r"gives the same state for different generators: draw",
    ),
    (
        "random start",
        {"random_start": unscaled},
        r"standard deviation of [\d.]+ for scale 0\.5: mul",
    ),
    (
        "restarting",
        {"restart": lambda _, state: state},
        r"restart keeps the gradient of h: detach it",
    ),
    (
        "restarting",
        {"restart": lambda _, state: Hidden(torch.cat([state.h, state.h]).detach())},
        r"restart gives h the shape \(2, 3, 6\), random_start \(1, 3, 6\): start without memories",
    ),
    (
        "training",
        {"set_progress": progressing}
        | computes(lambda m, x, y: y * (1 + getattr(m, "updates", 0))),
        r"training resumes in another state: its loss is .*: check the state_dict and state of Bro",
    ),
]


@each(MODEL_FAULTS)
def test_a_broken_model_gets_the_line_that_says_why(
    check: str, changes: dict[str, Any], reason: str
) -> None:
    error = failing(check_model, broken_model(**changes))
    assert str(error).startswith(f"Broken.Config fails the check {check!r}: ")
    assert re.search(reason, str(error)), error
    assert error.check == check


def test_a_model_that_pickle_refuses_gets_a_line() -> None:
    error = failing(check_model, Local.Config(hidden=6))
    assert re.search(r"'saving': raised \w+: Can't (pickle|get) local", str(error)), error


def test_a_model_without_an_import_path_is_not_pickled() -> None:
    notes = check_model(broken_model()).notes
    assert notes[1] == "saving: pickle, because Broken is not at a module's top level"


def constant(value: Any) -> dict[str, Any]:
    return {"k_top": lambda *_: value}


SCHEDULE_FAULTS: Faults = [
    ("config", {"__eq__": lambda a, b: a is b}, r"not equal to itself after to_dict and from_dict"),
    ("values", constant(0), r"k_top\(0, final=1, dense=1\) is 0: return an int of at least 1"),
    ("values", constant(2.0), r"is 2\.0: return an int of at least 1"),
    ("values", constant(True), r"is True: return an int of at least 1"),
    (
        "values",
        {"k_top": lambda *_: random.randint(1, 9)},
        r"is \d and then \d: return the same for ",
    ),
    (
        "values",
        {"k_top": broken},
        r"broken raised ZeroDivisionError: one two \(the check: `k_top` is",
    ),
    (
        "ends",
        {"k_top": lambda _, p, f, d: d},
        r"k_top\(1, final=1, dense=8\) is 8: return `final`, 1",
    ),
    (
        "ends",
        {"between": lambda _, a, b, way: a},
        r"k_top\(1, final=1, dense=8\) is 8: return `final`, 1, at progress 1",
    ),
    (
        "ends",
        {"between": lambda _, a, b, way: b},
        r"k_top\(0, final=1, dense=8\) is 1: return 8 up to `warmup`",
    ),
    (
        "ends",
        {"between": lambda _, a, b, way: b if way == 1 else a + 9 * (way > 0)},
        r"is 10: return 1 to \d+ before `share`|is 10: return 1 before `share`",
    ),
]


@each(SCHEDULE_FAULTS)
def test_a_broken_schedule_gets_the_line_that_says_why(
    check: str, changes: dict[str, Any], reason: str
) -> None:
    base: Any = Moving if "between" in changes else Sudden
    schedule: Any = type(base)("Broken", (base,), {"__module__": __name__, **changes})
    error = failing(check_schedule, schedule())
    assert str(error).startswith(f"Broken fails the check {check!r}: ")
    assert re.search(reason, str(error)), error


@pytest.mark.parametrize(
    ("check", "cls", "faults"),
    [
        (check_task, TaskChecks, TASK_FAULTS),
        (check_model, ModelChecks, MODEL_FAULTS),
        (check_schedule, ScheduleChecks, SCHEDULE_FAULTS),
    ],
)
def test_every_check_is_described_and_has_a_fault(check: Any, cls: Any, faults: Faults) -> None:
    """A model that stays on one device fails on machines with a GPU only."""
    described = re.findall(r"^- ([\w ]+): ", inspect.getdoc(check) or "", re.M)
    for name in described:
        doc = inspect.getdoc(getattr(cls, name.replace(" ", "_")))
        assert doc is not None
        assert doc.startswith("Check that ")
    broken = {name for name, _, _ in faults}
    assert broken == set(described) - ({"devices"} if check is check_model else set())


def test_a_part_that_workers_cannot_import_is_checked_with_a_note() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Local(Sudden):
        share: float = 0.5

    (note,) = check_schedule(Local()).notes
    assert re.match("config: a search would refuse this part, because .* in a function", note), note
    with pytest.raises(ConfigError, match="is defined in a function"):
        PARTS[Schedule].identify(Local)
    assert check_schedule(Sudden()).notes == ()


@pytest.mark.parametrize("check", [check_task, check_model, check_schedule])
@pytest.mark.parametrize("config", [None, "copying", sab.Copying, sab.TrainConfig()])
def test_another_argument_is_refused(check: Any, config: Any) -> None:
    with pytest.raises(ConfigError, match=r"^config is .*: give a configuration such as \w+"):
        check(config)


def test_pytest_hides_the_frames_of_the_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Sudden, "k_top", lambda *_: 0)
    with pytest.raises(ConformanceError) as caught:
        check_schedule(Sudden())
    shown = [entry.name for entry in caught.traceback if not entry.ishidden(caught)]
    assert shown == ["test_pytest_hides_the_frames_of_the_checks"]


@pytest.mark.parametrize("name", sab.testing.__all__)
def test_the_example_of_a_name_runs(name: str) -> None:
    doc = inspect.getdoc(getattr(sab.testing, name)) or ""
    example = doctest.DocTestParser().get_doctest(doc.split("Example:")[1], {}, name, None, 0)
    assert example.examples
    told: list[str] = []
    assert doctest.DocTestRunner().run(example, out=told.append).failed == 0, "".join(told)


MY_PARTS = """

class Parity(sab.SyntheticTask):
    inputs = outputs = 2
    chance = CHANCE

    @dataclass(frozen=True, kw_only=True)
    class Config(sab.TaskConfig):
        def build(self):
            return Parity(self)

    def batch(self, size, length, generator, device=torch.device("cpu")):
        bits = torch.randint(0, 2, (size, length), generator=generator)
        x = nn.functional.one_hot(bits, 2).float()NOISE
        scored = torch.ones(length, dtype=torch.bool)
        targets = bits.cumsum(1) % 2
        return sab.Batch(x=x.to(device), targets=targets.to(device), scored=scored)
"""
"""The task of the page's example, whose first answer is the first bit.

Its first answer is the first bit, so that a guess is right there and in half of the other steps.
"""


@pytest.mark.parametrize(
    ("page", "change"),
    [
        (block("own_parts.md", "from sabtune.testing"), {"CHANCE": "0.5"}),
        (block("own_parts.md", "check_task(Parity"), {"CHANCE": "0.55"}),
        (block("own_parts.md", "Parity.Config fails"), {"NOISE": " + torch.rand(())"}),
    ],
    ids=["check", "guess", "message"],
)
def test_the_checks_of_the_docs(
    page: str, change: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Run the page's checks of the page's own parts, and of the task that they name."""
    schedule = block("own_parts.md", "from dataclasses import dataclass\n\nimport sabtune")
    text = block("own_parts.md", "from __future__") + schedule + MY_PARTS
    for name, value in ({"NOISE": "", "CHANCE": "0.5"} | change).items():
        text = text.replace(name, value)
    (tmp_path / "my_parts.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    parts = importlib.import_module("my_parts")
    try:
        if page.startswith("Parity"):
            line = str(failing(check_task, parts.Parity.Config(length=10)))
            assert line == " ".join(page.split())
        else:
            names: dict[str, Any] = {"check_task": check_task, "Parity": parts.Parity}
            exec(page, names)
            names.get("test_my_parts", lambda: None)()
    finally:
        sys.modules.pop("my_parts")
