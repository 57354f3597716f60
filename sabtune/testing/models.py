"""The checks of a model."""

from __future__ import annotations

import copy
import math
import pickle
import sys
from collections.abc import Mapping
from dataclasses import fields

import torch
from safetensors.torch import load as tensors_of
from safetensors.torch import save as bytes_of
from torch import Tensor

from sabtune.models import Model, ModelConfig
from sabtune.models.base import state_tensors
from sabtune.schema import check_whole, shown
from sabtune.seeding import Stream, generator
from sabtune.testing.configs import check_argument, check_config, run_of
from sabtune.testing.model_case import (
    BATCH,
    MOST_STEPS,
    TOLERANCE,
    copied_weights,
    first_difference,
    largest_difference,
)
from sabtune.testing.result import (
    CheckResult,
    expect,
    is_whole,
    name_of,
    run_checks,
    seed_globally,
    type_of,
)
from sabtune.testing.resuming import check_resuming
from sabtune.testing.states import SCALE, StateChecks
from sabtune.training.checkpoint import restore_weights

SINGLE_TOLERANCE = 1e-2
"""The largest difference of logits in float32 between devices, absolute and relative."""
STRETCHES = (1, 4, 7)
"""The numbers of steps of the calls that a sequence is divided into."""


def check_model(
    config: ModelConfig, *, inputs: int = 4, outputs: int = 3, steps: int = 19
) -> CheckResult:
    """Check that a model keeps the contract of `sabtune.models.base.Model`.

    Logits are compared in float64, where only rounding (1e-10) may differ. The checks, in this
    order, up to the first that fails:

    - config: the configuration is read from JSON as it was, and has a hash.
    - description: `label` and `legend` are one line each; `period` and `share_kept` are in their
      ranges.
    - shapes: logits and states fit, for one and several sequences and steps, and `multiply_adds`
      is a number of at least 0.
    - determinism: only the generator decides the weights, and only x and state the logits.
    - precision: the model can be converted to float64.
    - progress: `set_progress` changes no weights; at progress 1, `settled` is true.
    - streaming: a sequence gives the same logits in one call and in several, in both modes.
    - batch independence: a sequence gives the same logits whatever else is in its batch.
    - gradients: every parameter has a finite gradient that is not zero.
    - evaluation: `forward` changes no weights; `no_grad` changes no logits, and neither does `eval`
      unless the configuration's `same_at_test` is False.
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
        ConfigError: `config` is not the configuration of a model, or `steps` is below 8.

    Example:
        >>> import sabtune as sab
        >>> result = sab.testing.check_model(sab.LSTM.Config(hidden=6))
        >>> len(result.checks), result.checks[6]
        (17, 'streaming')
    """
    __tracebackhide__ = True
    check_argument(config, ModelConfig, "LSTM.Config(hidden=8)")
    check_whole("steps", steps, least=8)
    checks = ModelChecks(config, inputs, outputs, steps)
    return run_checks(
        ModelConfig,
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


class ModelChecks(StateChecks):
    """The checks of one model."""

    def config(self) -> None:
        """Check that the configuration is read from JSON as it was, and has a hash."""
        check_config(self.model_config, lambda run: run.model)

    def description(self) -> None:
        """Check that `label`, `legend`, `period` and `share_kept` are in their ranges."""
        config, name = self.model_config, name_of(type(self.model_config))
        wanted = "return a few words on one line"
        for method, words in (("label", config.label()), ("legend", config.legend())):
            line = isinstance(words, str) and words.strip() == words != "" and "\n" not in words
            expect(line, f"{name}.{method}() is {shown(words)}: {wanted}")
        expect(
            is_whole(config.period, 1),
            f"{name}.period is {shown(config.period)}: return an int of at least 1",
        )
        for steps in (1, self.steps, 1000):
            share = config.share_kept(steps)
            inside = share is None or (isinstance(share, int | float) and 0 <= share <= 1)
            wanted = "return None, or a share from 0 to 1"
            expect(inside, f"{name}.share_kept({steps}) is {shown(share)}: {wanted}")

    def shapes(self) -> None:
        """Check that logits and states fit, for one and several sequences and steps."""
        model = self.built()
        expect(isinstance(model, Model), f"build returns {type_of(model)}: return a Model")
        period, same = model.period, self.model_config.period
        expect(
            period == same, f"{self.name}.period is {period}, that of its Config {same}: return it"
        )
        count = model.multiply_adds(self.inputs, self.steps)
        valid = isinstance(count, int | float) and 0 <= count < math.inf
        expect(
            valid,
            f"{self.name}.multiply_adds({self.inputs}, {self.steps}) is {shown(count)}: return a "
            "number of at least 0",
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

    def determinism(self) -> None:
        """Check that only the generator decides the weights, and only x and state the logits."""
        remedy = "draw every weight from the given generator"
        weights = []
        for seed, elsewhere in ((1, 1), (1, 2), (2, 2)):
            seed_globally(elsewhere)
            weights.append(copied_weights(self.built(seed)))
        one, same, other = weights
        key = first_difference(one, same)
        expect(key is None, f"{key} changes with the global random seed: {remedy}")
        changes = any(not torch.equal(one[n], other[n]) for n, _ in self.built().named_parameters())
        expect(changes, f"the weights are the same for generators of different seeds: {remedy}")
        logits = []
        for elsewhere in (1, 2):
            seed_globally(elsewhere)
            logits.append(self.built()(self.x(dtype=torch.float32))[0])
        difference = largest_difference(*logits)
        expect(
            difference == 0,
            f"{self.forward} gives logits that differ by {difference:.2g} for the same x: use no "
            "random numbers such as dropout",
        )

    def precision(self) -> None:
        """Check that the model can be converted to float64."""
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
        """Check that `set_progress` changes no weights; at progress 1, `settled` is true."""
        model, seen = self.built(), dict[float, Mapping[str, float]]()
        before = copied_weights(model)
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
        key = first_difference(before, copied_weights(model))
        expect(
            key is None, f"{self.name}.set_progress changes {key}: leave the weights as they are"
        )

    def streaming(self) -> None:
        """Check that a sequence gives the same logits in one call and in several."""
        x = self.x()
        for progress, learns in ((0.0, True), (1.0, False)):
            model = self.double()
            model.set_progress(progress)
            model.train(learns)
            with torch.set_grad_enabled(learns):
                whole, _ = model(x)
                for stretch in STRETCHES:
                    parts, state = [], None
                    for part in x.split(stretch, dim=1):  # type: ignore[no-untyped-call]
                        logits, state = model(part, state)
                        parts.append(logits)
                    difference = largest_difference(torch.cat(parts, dim=1), whole)
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
        key = first_difference(before, state_tensors(state))
        expect(key is None, f"{self.forward} changes {key} of the given state: return a new state")

    def batch_independence(self) -> None:
        """Check that a sequence gives the same logits whatever else is in its batch."""
        x, remedy = self.x(batch=5), "compute each sequence from itself alone"
        logits, _ = self.model(x)
        alone, _ = self.model(x[2:3])
        difference = largest_difference(alone, logits[2:3])
        expect(
            difference <= TOLERANCE,
            f"{self.forward} gives a sequence logits that differ by {difference:.2g} in a batch of "
            f"1 and of 5: {remedy}",
        )
        others = torch.cat([x[:2] * 3, x[2:3], x[3:].flip(1)])
        difference = largest_difference(self.model(others)[0][2], logits[2])
        expect(
            difference <= TOLERANCE,
            f"{self.forward} gives a sequence logits that differ by {difference:.2g} if the others "
            f"of its batch change: {remedy}",
        )

    def gradients(self) -> str | None:
        """Check that every parameter has a finite gradient that is not zero."""
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
        """Check that `forward` changes no weights, and that `eval` and `no_grad` change no logits.

        `eval` may, if the configuration says so.
        """
        model, x = self.double(), self.x()
        before = copied_weights(model)
        expected, _ = model(x)
        key = first_difference(before, copied_weights(model))
        expect(key is None, f"{self.forward} changes {key}: only the optimizer changes weights")
        with torch.no_grad():
            difference = largest_difference(model(x)[0], expected)
        differs = f"gives logits that differ by {difference:.2g}"
        expect(difference <= TOLERANCE, f"{self.forward} {differs} under torch.no_grad()")
        model.eval()
        difference = largest_difference(model(x)[0], expected)
        expect(
            difference <= TOLERANCE or not self.model_config.same_at_test,
            f"{self.forward} gives logits that differ by {difference:.2g} after eval(): models are "
            "measured in that mode, so compute the same in both, or let same_at_test be False",
        )

    def saving(self) -> str | None:
        """Check that a copy, a pickle and restored weights give the same logits."""
        x = self.x()
        expected, _ = self.model(x)
        state = self.model.state_dict()
        for key, value in state.items():
            tensor = isinstance(value, Tensor)
            expect(
                tensor, f"{key} of the state_dict is {type_of(value)}: checkpoints store tensors"
            )
        stored = bytes_of({key: value.contiguous() for key, value in state.items()})
        restored = self.double(seed=1)
        restore_weights(restored, tensors_of(stored))
        copies = [
            (restored, "restoring its state_dict in another model"),
            (copy.deepcopy(self.model), "copy.deepcopy"),
        ]
        importable = is_importable(type(self.model)) and is_importable(type(self.model_config))
        if importable:
            pickled = pickle.loads(pickle.dumps(self.model))  # noqa: S301  # from here
            copies.append((pickled, "pickle"))
        for model, how in copies:
            difference = largest_difference(model(x)[0], expected)
            expect(
                difference <= TOLERANCE,
                f"{self.name} gives logits that differ by {difference:.2g} after {how}: keep all "
                "that forward needs in parameters and buffers",
            )
        return None if importable else f"pickle, because {self.name} is not at a module's top level"

    def training(self) -> None:
        """Check that the model trains, and resumes from a checkpoint bit for bit."""
        check_resuming(run_of(self.model_config), f"check the state_dict and state of {self.name}")

    def devices(self) -> str | None:
        """Check that the model and its states move to a GPU, if there is one."""
        if not torch.cuda.is_available():
            return "no CUDA device: the model stayed on the CPU"
        cuda = torch.device("cuda", torch.cuda.current_device())
        x = self.x(dtype=torch.float32)
        expected, _ = self.built()(x)
        model = self.built().to(cuda)
        expect(model.device == cuda, f"{self.name}.device is {model.device}: return {cuda}")
        logits, state = model(x.to(cuda))
        difference = largest_difference(logits.cpu(), expected)
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


def is_importable(cls: type) -> bool:
    """Return whether pickle finds a class by its name."""
    found: object = sys.modules.get(cls.__module__)
    for name in cls.__qualname__.split("."):
        found = getattr(found, name, None)
    return found is cls


def _steps(count: int) -> str:
    return "1 step" if count == 1 else f"{count} steps"
