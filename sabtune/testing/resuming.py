"""The check that training and a checkpoint work with a part."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch

from sabtune.config import RunConfig
from sabtune.testing.result import expect
from sabtune.training.checkpoint import load_model
from sabtune.training.loop import Training


def check_resuming(run: RunConfig, name: str) -> None:
    """Check that a run that is saved and resumed half way ends as an uninterrupted one.

    name: the part whose state would be the cause, in words.
    """
    whole = Training(run)
    reports = list(whole)
    skipped = sum(report.skipped for report in reports)
    expect(not skipped, f"{skipped} of {run.train.updates} updates have no finite gradient")
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder) / "checkpoint"
        interrupted = Training(run)
        next(iter(interrupted))
        interrupted.save(directory)
        resumed = Training.resume(directory)
        last = list(resumed)[-1]
        resumed.save(directory)
        loaded = load_model(directory)
    losses = f"its loss is {last.loss:g}, and {reports[-1].loss:g} without an interruption"
    expect(last.loss == reports[-1].loss, f"training resumes in another state: {losses}: {name}")
    weights = whole.model.state_dict()
    for model, how in ((resumed.model, "resumed training"), (loaded, "load_model")):
        for key, tensor in model.state_dict().items():
            same = torch.equal(tensor, weights[key])
            expect(same, f"{key} differs after {how} from an uninterrupted training: {name}")
