"""Test the warnings before a search, and the share of memories that a model keeps."""

from __future__ import annotations

from pathlib import Path

import pytest

from sabtune.config import RunConfig, TrainConfig, TrialConfig
from sabtune.models import LSTM, SAB, SelfAttention
from sabtune.models.sab import ALL
from sabtune.study.cautions import cautions
from sabtune.study.loading import load
from sabtune.study.objectives import OBJECTIVES, directions
from sabtune.tasks import Copying, Language

STUDY = """
from sabtune.config import TrainConfig, TrialConfig
from sabtune.training.evaluation import Ladder
from sabtune.models import LSTM, SAB
from sabtune.schedule import Constant, Linear, Stepwise
from sabtune.study.definition import ASHA, Study
from sabtune.tasks import Copying

STUDY = Study(
    name="warned",
    task=Copying.Config(length=20, symbols=5),
    ladder=Ladder(lengths=(20, 40), select=(20,), k_top=K_TOP),
    trials=2,
    pruning=ASHA(grace=GRACE),
)

def space(trial):
    return TrialConfig(model=MODEL, train=TrainConfig(updates=1000))
"""

KEEPS = "keep every memory of a training sequence"
CHANGES = "have a schedule that changes nothing"
PRUNED = "are first pruned while they keep more memories than at the end"


@pytest.mark.parametrize(
    ("model", "grace", "said"),
    [
        ("SAB.Config(k_top=5, k_att=2)", 100, []),
        ("SAB.Config(k_top=15, k_att=2)", 100, []),  # 16 memories
        ("SAB.Config(k_top=16, k_att=2)", 100, [KEEPS]),
        ("SAB.Config(k_top=trial.suggest_int('k', 1, 20), k_att=2)", 100, [KEEPS]),
        # Only two of 32 draws keep every memory.
        ("SAB.Config(k_top=trial.suggest_int('k', 1, 16), k_att=2)", 100, []),
        ("SAB.Config(k_top=5, k_att=2, schedule=Linear(start=5))", 100, [CHANGES]),
        ("SAB.Config(k_top=16, k_att=2, schedule=Linear())", 100, [KEEPS, CHANGES]),
        ("SAB.Config(k_top=5, k_att=2, schedule=Linear(share=0.5))", 400, [PRUNED]),
        ("SAB.Config(k_top=5, k_att=2, schedule=Linear(share=0.5))", 500, []),
        ("SAB.Config(k_top=5, k_att=2, schedule=Linear(start=2))", 100, []),
        # The first rung is at the last update, so no trial is pruned.
        ("SAB.Config(k_top=5, k_att=2, schedule=Linear(share=0.5))", 1000, []),
        ("LSTM.Config()", 100, []),
    ],
)
def test_a_space_gets_its_warnings(model: str, grace: int, said: list[str], tmp_path: Path) -> None:
    path = tmp_path / "warned.py"
    text = STUDY.replace("MODEL", model).replace("GRACE", str(grace))
    path.write_text(text.replace("K_TOP", "'scheduled'"))
    lines = list(cautions(load(path)))
    assert len(lines) == len(said), lines
    assert all(words in line for words, line in zip(said, lines, strict=True))
    path.write_text(text.replace("K_TOP", "None"))  # every score uses the final k_top
    assert list(cautions(load(path))) == [line for line in lines if PRUNED not in line]


def test_the_share_of_memories_kept() -> None:
    def share(model: object, length: int | None = None) -> float | None:
        trial = TrialConfig(model=model, train=TrainConfig())  # type: ignore[arg-type]
        task = Copying.Config(length=20, symbols=5)  # 30 steps
        return RunConfig.of(task=task, trial=trial, seed=0).share_kept(length)

    assert share(SAB.Config(k_top=4, k_att=2)) == 4 / 16  # m_0 and every second step
    assert share(SAB.Config(k_top=4, k_att=2), 190) == 4 / 101
    assert share(SAB.Config(k_top=ALL, k_att=2)) == share(SelfAttention.Config()) == 1.0
    assert share(LSTM.Config()) is None


def test_carried_memories_count() -> None:
    trial = TrialConfig(model=SAB.Config(k_top=5, k_att=10), train=TrainConfig())
    run = RunConfig.of(task=Language.Config(length=100, memory_span=400), trial=trial, seed=0)
    assert run.share_kept() == run.share_kept(10_000) == 5 / 51
    assert run.share_kept(100) == 5 / 11


def test_the_share_kept_is_an_objective_that_is_minimized() -> None:
    assert directions(("score", "share_kept")) == ["maximize", "minimize"]
    trial = TrialConfig(model=SAB.Config(k_top=4, k_att=2), train=TrainConfig())
    run = RunConfig.of(task=Copying.Config(length=20, symbols=5), trial=trial, seed=0)
    assert OBJECTIVES["share_kept"][1](run, []) == 0.25
