"""The checks of a model."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import cached_property
from typing import Any

import torch
from safetensors.torch import load as tensors_of
from safetensors.torch import save as bytes_of
from torch import Tensor

from sabtune.models import Model, ModelConfig
from sabtune.models.base import state_tensors
from sabtune.schema import shown
from sabtune.seeding import Stream, generator
from sabtune.testing.configs import check_argument, check_config, run_of
from sabtune.testing.result import CheckResult, expect, name_of, run_checks, seed_globally
from sabtune.testing.resuming import check_resuming
from sabtune.training.checkpoint import restore_weights

TOLERANCE = 1e-10
"""The largest difference of logits in float64 that counts as rounding, absolute and relative."""
SINGLE_TOLERANCE = 1e-3
"""The same in float32, between devices."""
BATCH = 3
STRETCHES = (1, 4, 7)
"""The numbers of steps of the calls that a sequence is divided into."""
STARTS = 64
"""The number of random states whose numbers are measured."""
SCALE = 0.5
"""The standard deviation that is asked of their numbers."""
MOST_STEPS = 2000
"""The largest number of steps of a check that needs several periods of a model."""


def check_model(
    config: ModelConfig, *, inputs: int = 4, outputs: int = 3, steps: int = 19
) -> CheckResult:
    """Check that a model keeps the contract of `sabtune.models.base.Model`.

    Logits are compared in float64, where only rounding (1e-10) may differ. The checks, in this
    order, up to the first that fails:

    - config: it is stored as JSON and read again without a change, and has a hash.
    - description: `label`, `period` and `share_kept` are in their ranges.
    - shapes: of the logits and of the state, for one and several sequences and steps.
    - determinism: only the given generator decides the weights, and only x and the state the
      logits.
    - precision: the model can be converted to float64.
    - progress: `set_progress` changes no weights; at progress 1, `settled` is true.
    - streaming: a sequence gives the same logits in one call and in several.
    - batch independence: a sequence gives the same logits whatever else is in its batch.
    - gradients: every parameter has a finite gradient that is not zero.
    - evaluation: a forward pass changes no weights, and `eval` and `no_grad` change no logits.
    - saving: a copy, a pickle and restored weights give the same logits.
    - state: `state_of` restores a state from the tensors of a checkpoint.
    - carrying: `carry` detaches the state, keeps its sequence, and drops old memories.
    - random start: `random_start` has the requested scale, and only its generator decides it.
    - restarting: `restart` is detached and has no memories.
    - training: the model trains, and resumes from a checkpoint bit for bit.
    - devices: the model and its states move to a GPU, if there is one.

    Args:
        config: The configuration of the model. Make the model small: the time of the checks grows
            with its size.
        inputs: I, the number of inputs of a step.
        outputs: O, the number of logits of a step.
        steps: T, the number of steps of the sequences, at least 8.

    Returns:
        The names of the checks, and what could not be checked here.

    Raises:
        ConformanceError: A check failed. The message is one line that names the check, the value
            and what the contract wants.
        ConfigError: `config` is not the configuration of a model.

    Example:
        >>> import sabtune as sab
        >>> result = sab.testing.check_model(sab.LSTM.Config(hidden=6))
        >>> len(result.checks), result.checks[6]
        (17, 'streaming')
    """
    __tracebackhide__ = True
    check_argument(config, ModelConfig, "LSTM.Config(hidden=8)")  # type: ignore[type-abstract]
    checks = ModelChecks(config, inputs, outputs, steps)
    return run_checks(
        config,
        [
            checks.config,
            checks.description,
            checks.shapes,
            checks.determinism,
            checks.precision,
            checks.progress,
            checks.streaming,
            checks.batch_independence,
            checks.gradients,
            checks.evaluation,
            checks.saving,
            checks.state,
            checks.carrying,
            checks.random_start,
            checks.restarting,
            checks.training,
            checks.devices,
        ],
    )


class ModelChecks:
    """The checks of one model."""

    def __init__(self, config: ModelConfig, inputs: int, outputs: int, steps: int):
        self.model_config, self.inputs, self.outputs, self.steps = config, inputs, outputs, steps

    def built(self, seed: int = 0) -> Model:
        """Return a new model in float32, with weights drawn from the seed."""
        drawn = generator(seed, Stream.INITIALIZATION)
        return self.model_config.build(self.inputs, self.outputs, steps=self.steps, generator=drawn)

    def double(self, seed: int = 0) -> Model:
        """Return a new model in float64."""
        return self.built(seed).double()

    @cached_property
    def model(self) -> Model:
        """A model in float64 that no check changes."""
        return self.double()

    @cached_property
    def name(self) -> str:
        return name_of(type(self.built()))

    def x(
        self, steps: int | None = None, batch: int = BATCH, dtype: torch.dtype = torch.float64
    ) -> Tensor:
        """Return sequences (B, T, I), the same for the same sizes."""
        shape = (batch, self.steps if steps is None else steps, self.inputs)
        return torch.randn(shape, generator=generator(0, Stream.TEST)).to(dtype)

    def config(self) -> None:
        check_config(self.model_config, lambda run: run.trial.model)

    def description(self) -> None:
        config, name = self.model_config, name_of(type(self.model_config))
        label = config.label()
        line = isinstance(label, str) and label.strip() == label != "" and "\n" not in label
        wanted = "return a few words on one line"
        expect(line, f"{name}.label() is {shown(label)}: {wanted}")
        expect(_whole(config.period), f"{name}.period is {shown(config.period)}: {COUNT}")
        for steps in (1, self.steps, 1000):
            share = config.share_kept(steps)
            inside = share is None or (isinstance(share, int | float) and 0 <= share <= 1)
            wanted = "return None, or a share from 0 to 1"
            expect(inside, f"{name}.share_kept({steps}) is {shown(share)}: {wanted}")

    def shapes(self) -> None:
        model = self.built()
        expect(isinstance(model, Model), f"build returns {shown(model)}: return a Model")
        period, same = model.period, self.model_config.period
        expect(
            period == same, f"{self.name}.period is {period}, that of its Config {same}: return it"
        )
        for batch, steps in ((1, 1), (1, self.steps), (BATCH, self.steps), (BATCH, 2 * self.steps)):
            logits, state = model(self.x(steps, batch, torch.float32))
            wanted, size = (batch, steps, self.outputs), tuple(logits.shape)
            expect(
                size == wanted, f"{self.forward} returns logits {size}: return {wanted}, (B, T, O)"
            )
            expect(
                logits.dtype == torch.float32,
                f"{self.forward} returns {logits.dtype} logits for float32 x: keep the type of x",
            )
            finite = bool(logits.isfinite().all())
            expect(
                finite, f"{self.forward} returns logits that are not finite at its first weights"
            )
            self.check_state(state, "forward")

    @property
    def forward(self) -> str:
        return f"{self.name}.forward"

    def check_state(self, state: Any, method: str) -> dict[str, Tensor]:
        """Check the type of a state, and return its tensors by name."""
        kind = getattr(type(self.built()), "state_type", None)
        fits = isinstance(kind, type) and is_dataclass(kind)
        expect(fits, f"{self.name}.state_type is {shown(kind)}: give the dataclass of the state")
        assert kind is not None
        expect(
            isinstance(state, kind),
            f"{self.name}.{method} returns a state {shown(type(state))}: return {kind.__name__}, "
            "the state_type",
        )
        for field in fields(state):
            value = getattr(state, field.name)
            stored = isinstance(value, Tensor) or _whole(value, 0)
            wanted = "checkpoints store tensors and ints of at least 0"
            expect(stored, f"{kind.__name__}.{field.name} is {shown(value)}: {wanted}")
        return state_tensors(state)

    def determinism(self) -> None:
        remedy = "draw every weight from the given generator"
        weights = []
        for seed, elsewhere in ((1, 1), (1, 2), (2, 2)):
            seed_globally(elsewhere)
            weights.append(self.built(seed).state_dict())
        one, same, other = weights
        key = _difference(one, same)
        expect(key is None, f"{key} changes with the global random seed: {remedy}")
        changes = any(not torch.equal(one[n], other[n]) for n, _ in self.built().named_parameters())
        expect(changes, f"the weights are the same for generators of different seeds: {remedy}")
        logits = []
        for elsewhere in (1, 2):
            seed_globally(elsewhere)
            logits.append(self.built()(self.x(dtype=torch.float32))[0])
        difference = _largest(*logits)
        expect(
            difference == 0,
            f"{self.forward} gives logits that differ by {difference:.2g} for the same x: use no "
            "random numbers such as dropout",
        )

    def precision(self) -> None:
        model = self.double()
        logits, state = model(self.x())
        expect(
            logits.dtype == torch.float64,
            f"{self.forward} returns {logits.dtype} logits for float64 x: keep the type of x",
        )
        for name, tensor in state_tensors(state).items():
            kept = not tensor.is_floating_point() or tensor.dtype == torch.float64
            expect(kept, f"the state's {name} is {tensor.dtype} for float64 x: keep the type of x")

    def progress(self) -> None:
        model, seen = self.built(), {}
        before = _weights(model)
        for progress in (0.0, 0.25, 1.0, 0.25):
            model.set_progress(progress)
            values = model.in_force()
            named = isinstance(values, Mapping) and all(
                isinstance(key, str) and isinstance(value, int | float) and math.isfinite(value)
                for key, value in values.items()
            )
            expect(
                named, f"{self.name}.in_force() is {shown(values)}: return finite numbers by name"
            )
            same = seen.setdefault(progress, values) == values
            expect(
                same,
                f"{self.name}.in_force() is {shown(seen[progress])} and later {shown(values)} at "
                f"progress {progress}: let `set_progress` alone decide",
            )
            expect(
                progress < 1 or model.settled is True,
                f"{self.name}.settled is {shown(model.settled)} at progress 1: return True",
            )
        key = _difference(before, _weights(model))
        expect(
            key is None, f"{self.name}.set_progress changes {key}: leave the weights as they are"
        )

    def streaming(self) -> None:
        x = self.x()
        for progress, learns in ((0.0, True), (1.0, False)):
            model = self.double()
            model.set_progress(progress)
            with torch.set_grad_enabled(learns):
                whole, _ = model(x)
                for stretch in STRETCHES:
                    parts, state = [], None
                    for part in x.split(stretch, dim=1):  # type: ignore[no-untyped-call]
                        logits, state = model(part, state)
                        parts.append(logits)
                    difference = _largest(torch.cat(parts, dim=1), whole)
                    expect(
                        difference <= TOLERANCE,
                        f"{self.forward} gives logits that differ by {difference:.2g} in calls of "
                        f"{_steps(stretch)}: put all that later steps need into the state",
                    )
                self.check_unchanged(model, x)

    def check_unchanged(self, model: Model, x: Tensor) -> None:
        """Check that `forward` leaves the state that it is given as it is."""
        _, state = model(x)
        before = state_tensors(state)
        model(x, state)
        key = _difference(before, state_tensors(state))
        expect(key is None, f"{self.forward} changes {key} of the given state: return a new state")

    def batch_independence(self) -> None:
        x, remedy = self.x(batch=5), "compute each sequence from itself alone"
        logits, _ = self.model(x)
        alone, _ = self.model(x[2:3])
        difference = _largest(alone, logits[2:3])
        expect(
            difference <= TOLERANCE,
            f"{self.forward} gives a sequence logits that differ by {difference:.2g} in a batch of "
            f"1 and of 5: {remedy}",
        )
        others = torch.cat([x[:2] * 3, x[2:3], x[3:].flip(1)])
        difference = _largest(self.model(others)[0][2], logits[2])
        expect(
            difference <= TOLERANCE,
            f"{self.forward} gives a sequence logits that differ by {difference:.2g} if the others "
            f"of its batch change: {remedy}",
        )

    def gradients(self) -> str | None:
        steps = max(self.steps, 4 * self.model_config.period + 3)
        if steps > MOST_STEPS:
            return f"period {self.model_config.period} is too long: give a shorter one"
        model = self.built()
        logits, _ = model(self.x(steps, dtype=torch.float32))
        cotangent = torch.randn(logits.shape, generator=generator(1, Stream.TEST))
        torch.autograd.backward((logits * cotangent).sum())
        for name, parameter in model.named_parameters():
            if not parameter.requires_grad:
                continue
            gradient = parameter.grad
            expect(
                gradient is not None and bool(gradient.any()),
                f"{name} has no gradient after {steps} steps: use it in forward, or remove it",
            )
            assert gradient is not None
            finite = bool(gradient.isfinite().all())
            expect(finite, f"{name} has a gradient that is not finite after {steps} steps")
        return None

    def evaluation(self) -> None:
        model, x = self.double(), self.x()
        before = _weights(model)
        expected, _ = model(x)
        key = _difference(before, _weights(model))
        expect(key is None, f"{self.forward} changes {key}: only the optimizer changes weights")
        with torch.no_grad():
            difference = _largest(model(x)[0], expected)
        differs = f"gives logits that differ by {difference:.2g}"
        expect(difference <= TOLERANCE, f"{self.forward} {differs} under torch.no_grad()")
        difference = _largest(model.eval()(x)[0], expected)
        expect(
            difference <= TOLERANCE,
            f"{self.forward} gives logits that differ by {difference:.2g} after eval(): models are "
            "measured in both modes, so compute the same in both",
        )

    def saving(self) -> None:
        x = self.x()
        expected, _ = self.model(x)
        state = self.model.state_dict()
        for key, value in state.items():
            tensor = isinstance(value, Tensor)
            expect(tensor, f"{key} of the state_dict is {shown(value)}: checkpoints store tensors")
        stored = bytes_of({key: value.contiguous() for key, value in state.items()})
        restored = self.double(seed=1)
        restore_weights(restored, tensors_of(stored))
        pickled = pickle.loads(pickle.dumps(self.model))  # noqa: S301  # from here
        for model, how in (
            (restored, "restoring its state_dict in another model"),
            (copy.deepcopy(self.model), "copy.deepcopy"),
            (pickled, "pickle"),
        ):
            difference = _largest(model(x)[0], expected)
            expect(
                difference <= TOLERANCE,
                f"{self.name} gives logits that differ by {difference:.2g} after {how}: keep all "
                "that forward needs in parameters and buffers",
            )

    def state(self) -> None:
        x = self.x()
        with torch.no_grad():
            _, state = self.model(x)
            tensors = state_tensors(state)
            restored = self.model.state_of(tensors_of(bytes_of(tensors)))
            key = _difference(tensors, self.check_state(restored, "state_of"))
            expect(key is None, f"{self.name}.state_of gives another {key}: restore every field")
            difference = _largest(self.model(x, restored)[0], self.model(x, state)[0])
        expect(
            difference <= TOLERANCE,
            f"{self.forward} gives logits that differ by {difference:.2g} from a restored state: "
            "compute from the fields of the state alone",
        )

    def carrying(self) -> str | None:
        x, name = self.x(), f"{self.name}.carry"
        _, state = self.model(x)
        before = state_tensors(state)
        for span in (0, self.model_config.period, 10**6):
            self.check_detached(self.model.carry(state, span), "carry")
        key = _difference(before, state_tensors(state))
        expect(key is None, f"{name} changes {key} of the given state: return a new state")
        carried = self.model.carry(state, 10**6)
        difference = _largest(self.model(x, carried)[0], self.model(x, state)[0])
        expect(
            difference <= TOLERANCE,
            f"{name} gives a state whose logits differ by {difference:.2g} from those of the given "
            "one: continue its sequence",
        )
        return self.check_dropping()

    def check_dropping(self) -> str | None:
        """Check that the state does not grow over many windows that carry few memories."""
        period = self.model_config.period
        window, sizes = period * math.ceil(8 / period), {}
        if 6 * window > MOST_STEPS:
            return f"whether old memories are dropped, because period {period} is too long"
        x, state = self.x(window), None
        with torch.no_grad():
            for number in range(6):
                _, state = self.model(x, state)
                state = self.model.carry(state, 2 * period)
                sizes[number] = sum(tensor.numel() for tensor in state_tensors(state).values())
        expect(
            sizes[5] == sizes[2],
            f"{self.name}.carry gives a state of {sizes[2]:,} numbers after {3 * window} steps and "
            f"of {sizes[5]:,} after {6 * window}: drop memories that are more than `span` steps old",
        )
        return None

    def check_detached(self, state: Any, method: str) -> dict[str, Tensor]:
        for name, value in vars(state).items() if hasattr(state, "__dict__") else ():
            attached = isinstance(value, Tensor) and value.requires_grad
            expect(not attached, f"{self.name}.{method} keeps the gradient of {name}: detach it")
        return self.check_state(state, method)

    def random_start(self) -> None:
        name, remedy = f"{self.name}.random_start", "draw from the given generator"
        states = []
        for seed, elsewhere in ((1, 1), (1, 2), (2, 2)):
            seed_globally(elsewhere)
            state = self.model.random_start(STARTS, SCALE, generator(seed, Stream.STATES))
            states.append(self.check_detached(state, "random_start"))
        one, same, other = states
        key = _difference(one, same)
        expect(key is None, f"{name} gives another {key} if the global seed changes: {remedy}")
        numbers = [one[key][one[key] != other[key]].flatten() for key in one]
        drawn = torch.cat([each.double() for each in numbers])
        expect(len(drawn) > 0, f"{name} gives the same state for different generators: {remedy}")
        scale = float(drawn.square().mean().sqrt())
        error = 4 / math.sqrt(2 * len(drawn))
        expect(
            abs(scale / SCALE - 1) <= max(error, 0.05),
            f"{name} gives numbers with a standard deviation of {scale:.2g} for scale {SCALE}: "
            "multiply standard normal numbers by scale",
        )
        start = self.built().random_start(BATCH, SCALE, generator(0, Stream.STATES))
        logits, _ = self.built()(self.x(dtype=torch.float32), start)
        finite = logits.shape[0] == BATCH and bool(logits.isfinite().all())
        expect(finite, f"{self.forward} gives no finite logits from {name}")

    def restarting(self) -> None:
        x, name = self.x(), f"{self.name}.restart"
        start = state_tensors(self.model.random_start(BATCH, SCALE, generator(0, Stream.STATES)))
        _, state = self.model(x)
        before = state_tensors(state)
        restarted = self.model.restart(state)
        tensors = self.check_detached(restarted, "restart")
        key = _difference(before, state_tensors(state))
        expect(key is None, f"{name} changes {key} of the given state: return a new state")
        for key, tensor in tensors.items():
            size, wanted = tuple(tensor.shape), tuple(start[key].shape)
            expect(
                size == wanted,
                f"{name} gives {key} the shape {size}, random_start {wanted}: start without memories",
            )
            counts = not tensor.is_floating_point()
            expect(
                not counts or torch.equal(tensor, start[key]),
                f"{name} gives {key} {tensor.tolist()}, random_start {start[key].tolist()}: start a "
                "new sequence",
            )
        finite = bool(self.model(x, restarted)[0].isfinite().all())
        expect(finite, f"{self.forward} gives no finite logits from {name}")

    def training(self) -> None:
        check_resuming(run_of(self.model_config), f"check the state_dict and state of {self.name}")

    def devices(self) -> str | None:
        if not torch.cuda.is_available():
            return "no CUDA device: the model stayed on the CPU"
        cuda = torch.device("cuda", torch.cuda.current_device())
        x = self.x(dtype=torch.float32)
        expected, _ = self.built()(x)
        model = self.built().to(cuda)
        expect(model.device == cuda, f"{self.name}.device is {model.device}: return {cuda}")
        logits, state = model(x.to(cuda))
        difference = _largest(logits.cpu(), expected)
        expect(
            difference <= SINGLE_TOLERANCE,
            f"{self.forward} gives logits that differ by {difference:.2g} between {cuda} and cpu",
        )
        states = {
            "forward": state,
            "carry": model.carry(state, 10**6),
            "restart": model.restart(state),
            "random_start": model.random_start(BATCH, SCALE, generator(0, Stream.STATES)),
            "state_of": model.state_of({k: t.cpu() for k, t in state_tensors(state).items()}),
        }
        for method, each in states.items():
            for field in fields(each):
                value = getattr(each, field.name)
                there = not isinstance(value, Tensor) or value.device == cuda
                expect(there, f"{self.name}.{method} gives {field.name} on another device: move it")
            model(x.to(cuda), each)
        return None


COUNT = "return an int of at least 1"


def _whole(value: object, least: int = 1) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _steps(count: int) -> str:
    return "1 step" if count == 1 else f"{count} steps"


def _largest(one: Tensor, other: Tensor) -> float:
    """Return the largest difference of two tensors, relative to numbers above 1."""
    if one.shape != other.shape:
        return math.inf
    difference = (one - other).abs() / other.abs().clamp(min=1)
    return float(difference.nan_to_num(nan=math.inf).max()) if difference.numel() else 0.0


def _weights(model: Model) -> dict[str, Tensor]:
    """Return copies of the parameters and buffers of a model."""
    named = (*model.named_parameters(), *model.named_buffers())
    return {name: tensor.detach().clone() for name, tensor in named}


def _difference(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> str | None:
    """Return the name of a tensor that differs, or None."""
    for name in sorted({*one, *other}):
        if name not in one or name not in other or not torch.equal(one[name], other[name]):
            return name
    return None
