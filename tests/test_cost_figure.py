"""Test the figure and the tables of accuracy against cost."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from sabtune.analysis.cost import baseline_studies, group_table, study_table
from sabtune.models import GRU, LSTM, SAB, ModelConfig
from sabtune.reporting.data import ReportData, gather
from sabtune.reporting.figures import cost, live, still
from sabtune.reporting.figures.marks import Figure, Line, Panel, Points, Rule
from sabtune.reporting.figures.palette import METHODS, SYMBOLS
from sabtune.reporting.html import page
from sabtune.storage.store import Store
from sabtune.study.attributes import LABEL
from sabtune.study.optuna_storage import open_storage
from sabtune.study.record import StudyRecord
from sabtune.study.trial_specs import FRESH_SEED
from tests.reports import LENGTHS, frozen, marks, results

Costs = Mapping[str, float]

SPARSE: Costs = {"parameters": 1000, "multiply_adds": 1500.0, "seconds": 10.0}
DENSE: Costs = {"parameters": 1010, "multiply_adds": 90_000.0, "seconds": 40.0}
LAST = LENGTHS[-1]


def accuracy(score: float, length: int = LAST) -> float:
    return 100 * next(r.accuracy for r in results(score) if r.length == length)


def made(
    store: Store,
    name: str,
    trials: list[tuple[ModelConfig, float, Costs | None]],
    baseline: str = "",
) -> None:
    """Write a study of complete trials with these models, scores and costs, and one pruned."""
    study = optuna.create_study(
        study_name=name, storage=open_storage(store, write=True), direction="maximize"
    )
    study.set_user_attr("plan", {"rival": baseline} if baseline else {"file": __file__})
    for number, (model, score, costs) in enumerate(trials):
        study.add_trial(frozen(number, model, score, TrialState.COMPLETE, costs=costs))
    pruned = frozen(len(trials), SAB.Config(hidden=8), 0.5, TrialState.PRUNED, costs=SPARSE)
    study.add_trial(pruned)


def confirmed(store: Store, name: str, methods: Mapping[str, tuple[ModelConfig, Costs]]) -> None:
    """Write a comparison of methods, with three seeds each and a failed one."""
    study = optuna.create_study(
        study_name=name, storage=open_storage(store, write=True), direction="maximize"
    )
    study.set_user_attr("plan", {"contest": dict.fromkeys(methods, ""), "searched": [100]})
    for label, (model, costs) in methods.items():
        for seed in range(4):
            number = len(study.get_trials(deepcopy=False))
            state = TrialState.FAIL if seed == 3 else TrialState.COMPLETE
            own = dict(costs) | {"seconds": costs["seconds"] + seed}
            trial = frozen(number, model, 0.9 - seed / 10, state, seed=FRESH_SEED + seed,
                           label=label, costs=own)  # fmt: skip
            assert trial.user_attrs[LABEL] == label
            study.add_trial(trial)


def data(store: Store, name: str) -> ReportData:
    return gather(StudyRecord.open(store, name))


def drawn(store: Store, name: str) -> Figure:
    figure = cost.cost(data(store, name))
    assert figure is not None
    return figure


def axis(panel: Panel) -> tuple[str, bool]:
    return panel.x.label, panel.x.log


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Return a store with a study of SAB, and studies of two baselines and of another file."""
    store = Store(tmp_path)
    sparse, lstm = SAB.Config(hidden=8), LSTM.Config(hidden=8)
    made(store, "ours", [(sparse, 0.9, SPARSE), (sparse, 0.8, SPARSE)])
    made(store, "ours.lstm", [(lstm, 0.5, DENSE)], "lstm")
    made(store, "ours.gru", [(GRU.Config(hidden=8), 0.6, None)], "gru")
    made(store, "ours.other", [(lstm, 0.7, DENSE)])
    return store


def test_a_search_is_drawn_with_its_baselines(store: Store) -> None:
    figure = drawn(store, "ours")
    assert [axis(panel) for panel in figure.panels] == [
        ("parameters", False),
        ("multiply-adds per step (log scale)", True),
        ("seconds of a trial", False),
    ]
    for panel, name in zip(figure.panels, ("parameters", "multiply_adds", "seconds"), strict=True):
        assert panel.y.label == "accuracy at 2,000 (%)"
        ours, gru, lstm = marks(panel, Points)
        assert [mark.label for mark in (ours, gru, lstm)] == [
            "sab",
            "baseline gru",
            "baseline lstm",
        ]
        assert [mark.color for mark in (ours, gru, lstm)] == list(METHODS[:3])
        assert [mark.symbol for mark in (ours, gru, lstm)] == list(SYMBOLS[:3])
        assert list(ours.x) == [SPARSE[name]] * 2
        assert list(ours.y) == pytest.approx([accuracy(0.8), accuracy(0.9)])  # the best on top
        assert list(lstm.x) == [DENSE[name]]
        assert list(lstm.y) == pytest.approx([accuracy(0.5)])
        assert list(gru.x) == []  # it didn't record its cost
        assert lstm.names == ["ours.lstm #0 LSTM, full BPTT"]
        assert [rule.y for rule in marks(panel, Rule)] == [12.5]
    assert "of this study and of its baselines (n = 4)" in figure.caption


def test_a_cost_with_one_value_is_left_out(store: Store) -> None:
    lstm = LSTM.Config(hidden=8)
    made(store, "same", [(lstm, 0.9, {**SPARSE, "seconds": 1.0}), (lstm, 0.8, SPARSE)])
    assert [axis(panel)[0] for panel in drawn(store, "same").panels] == ["seconds of a trial"]
    made(store, "one", [(lstm, 0.9, SPARSE)])
    assert cost.cost(data(store, "one")) is None
    made(store, "none", [(lstm, 0.9, None), (lstm, 0.8, None)])
    assert cost.cost(data(store, "none")) is None


def test_methods_on_fresh_seeds_are_drawn_with_their_intervals(store: Store) -> None:
    methods: dict[str, tuple[ModelConfig, Costs]] = {
        "ours #0 sparse": (SAB.Config(hidden=8), SPARSE),
        "ours.lstm #0 lstm full BPTT": (LSTM.Config(hidden=8), DENSE),
    }
    confirmed(store, "ours.confirm", methods)
    figure = drawn(store, "ours.confirm")
    assert len(figure.panels) == 3
    ours, lstm = marks(figure.panels[2], Line)
    assert (list(ours.x), list(lstm.x)) == ([11.0], [41.0])  # the mean of 3 that didn't fail
    mean = statistics.fmean([accuracy(0.9), accuracy(0.8), accuracy(0.7), 12.5])
    assert list(ours.y) == pytest.approx([mean])
    assert ours.low is not None
    assert ours.high is not None
    low, high = ours.low[0], ours.high[0]
    assert low is not None
    assert high is not None
    assert low < mean < high
    assert ours.label == "SAB (k_top=5, k_att=5, k_trunc=5) (n = 4)"
    both = drawn(store, "ours")
    assert [panel.title for panel in both.panels] == (
        ["On fresh seeds"] * 3 + ["The search's trials"] * 3
    )


def test_the_tables_have_the_costs_and_accuracies(store: Store) -> None:
    table = study_table([StudyRecord.open(store, name) for name in ("ours", "ours.lstm")])
    assert table.header == (
        "method", "trials", "parameters", "multiply-adds per step", "seconds of a trial",
        "length 100", "length 2,000",
    )  # fmt: skip
    sab = "ours: SAB (k_top=5, k_att=5, k_trunc=5)"
    ends = [f"{accuracy(0.9, length):.1f}%" for length in (100, LAST)]
    assert table.body[0] == (sab, "3", "1,000", "1,500", "10", *ends)
    assert table.body[1][:5] == ("ours.lstm: LSTM, full BPTT", "2", "1,010", "90,000", "40")
    none = study_table([StudyRecord.open(store, "ours.gru")])
    assert none.header == ("method", "trials", "length 100", "length 2,000")
    confirmed(store, "ours.confirm", {"ours #0 x": (SAB.Config(hidden=8), SPARSE)})
    of_groups = group_table(next(iter(data(store, "ours.confirm").comparisons.values())))
    assert of_groups.body[0][:5] == (sab.partition(": ")[2], "4", "1,000", "1,500", "11")


def test_the_baselines_of_a_study_are_found(store: Store) -> None:
    found = baseline_studies(StudyRecord.open(store, "ours"))
    assert [study.name for study in found] == ["ours.gru", "ours.lstm"]
    assert baseline_studies(StudyRecord.open(store, "ours.lstm")) == []
    assert baseline_studies(StudyRecord(optuna.create_study(study_name="ours"))) == []


def test_the_page_and_both_backends_have_it(store: Store) -> None:
    found, figure = data(store, "ours"), drawn(store, "ours")
    assert still.draw(figure, "png").startswith(b"\x89PNG")
    plot = live.figure(figure)
    shown = {trace.name for trace in plot.data}
    assert {"sab", "baseline lstm"} <= shown
    from sabtune.reporting.figures import drawings

    figures = drawings(found)
    assert "cost" in [drawing.name for drawing in figures]
    text = page(found, figures)
    section = text.partition('<section id="figure-cost"')[2].partition("</section>")[0]
    assert "Accuracy against cost" in section
    assert "<td>90,000</td>" in section
