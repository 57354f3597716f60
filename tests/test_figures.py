"""Test the data that figures show."""

from __future__ import annotations

from typing import Literal

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState

from sabtune.analysis.importance import tried
from sabtune.models import LSTM, SAB, ModelConfig, SelfAttention
from sabtune.models.sab import ALL
from sabtune.reporting.data import ReportData, gather
from sabtune.reporting.figures import importance, lengths, parallel, space, training
from sabtune.reporting.figures.fields import Field, fields
from sabtune.reporting.figures.marks import (
    Bars,
    Curves,
    Figure,
    Line,
    Points,
    Rule,
    Scale,
    spread,
)
from sabtune.reporting.figures.palette import BLACK, BLUE, DARK, GRAY, MAP, METHODS, TEXT, WHITE
from sabtune.storage.store import Store
from sabtune.study.attributes import SPEC
from sabtune.study.record import StudyRecord
from tests.reports import BASELINES, LENGTHS, confirmed, frozen, marks, named, results, searched

pytest_plugins = ("tests.report_data",)


def test_accuracy_is_drawn_as_it_was_measured(found: ReportData) -> None:
    fresh, search = lengths.accuracy(found).panels
    ours = marks(fresh, Line)[0]
    assert ours.x == pytest.approx(LENGTHS, rel=0.05)  # methods are drawn side by side
    assert list(ours.names) == ["length 100", "length 200", "length 400", "length 2,000"]
    scores = BASELINES["ours"][1]
    measured = np.array([[result.accuracy for result in results(score or 0)] for score in scores])
    assert ours.y == pytest.approx(100 * measured.mean(axis=0))
    assert ours.low is not None
    assert ours.high is not None
    for low, mean, high in zip(ours.low, ours.y, ours.high, strict=True):
        assert low is not None
        assert high is not None
        assert low < mean < high
    (every,) = marks(search, Curves)
    complete = [trial for trial in found.trials if trial.state == TrialState.COMPLETE]
    assert {tuple(curve.y) for curve in every.curves} == {
        tuple(100 * result.accuracy for result in trial.test) for trial in complete
    }
    best = marks(search, Line)[-1]
    assert best.y == [100 * result.accuracy for result in found.best.test]
    rules = marks(search, Rule)
    assert {(rule.x, rule.y) for rule in rules} == {(100, None), (None, 12.5)}
    assert search.x.log
    assert "n = 4 seeds a method" in lengths.accuracy(found).caption
    assert f"complete ones (n = {len(complete)})" in lengths.accuracy(found).caption


def test_seeds_of_a_configuration_show_their_mean_and_range(store: Store) -> None:
    study = optuna.create_study(study_name="seeds", direction="maximize")
    for number, score in enumerate((0.8, 0.9, 0.7)):
        trial = frozen(number, SAB.Config(hidden=8), score, TrialState.COMPLETE)
        trial.user_attrs[SPEC]["configuration"] = 0
        study.add_trial(trial)
    (panel,) = lengths.accuracy(gather(StudyRecord(study, store))).panels
    (line,) = marks(panel, Line)
    assert line.label == "#0 SAB (k_top=5, k_att=5, k_trunc=5), 3 seeds"
    assert line.low == [100 * result.accuracy for result in results(0.7)]
    assert line.high == [100 * result.accuracy for result in results(0.9)]
    means = np.mean([[r.accuracy for r in results(score)] for score in (0.8, 0.9, 0.7)], axis=0)
    assert line.y == pytest.approx(100 * means)


def of_models(store: Store, *models: ModelConfig) -> ReportData:
    """Return a study of one complete trial for each model, the first one with the best score."""
    study = optuna.create_study(study_name="models", direction="maximize")
    for number, model in enumerate(models):
        study.add_trial(frozen(number, model, 0.9 - number / 10, TrialState.COMPLETE))
    return gather(StudyRecord(study, store))


def test_accuracy_is_colored_by_the_share_of_memories_kept(store: Store) -> None:
    kept = [SAB.Config(hidden=8, k_att=1, k_top=k_top) for k_top in (2, 40, 12)]
    figure = lengths.accuracy(of_models(store, *kept, LSTM.Config(hidden=8)))
    assert figure.scale is not None
    assert figure.scale.label == "share of memories kept (%)"
    # Copying 10 symbols at length 100 has 120 steps, and the zero vector is a memory, too.
    assert (figure.scale.low, figure.scale.high) == pytest.approx((200 / 121, 4000 / 121))
    assert figure.scale.log  # they span more than a factor of 10
    (panel,) = figure.panels
    lines = marks(panel, Line)
    assert [line.label[:2] for line in lines] == ["#3", "#2", "#1", "#0"]  # the best is on top
    assert [line.rank for line in lines] == [3, 2, 1, 0]  # and comes first in the legend
    colors = [line.color for line in lines]
    assert colors == [BLACK, figure.scale.color(1200 / 121), MAP[-1], MAP[0]]
    assert lines[0].label == "#3 LSTM, full BPTT, one seed"
    (curves,) = marks(panel, Curves)
    values = {curve.name.split(",")[0]: curve.value for curve in curves.curves}
    shares = {"#0": 200 / 121, "#1": 4000 / 121, "#2": 1200 / 121}
    assert values == pytest.approx(shares | {"#3": None})
    assert "models without memories have no color" in figure.caption


def test_methods_have_the_colors_of_their_shares(store: Store) -> None:
    methods: dict[str, tuple[ModelConfig, list[float | None]]] = {
        "#0 sparse": (SAB.Config(hidden=8, k_att=1, k_top=12), [0.9, 0.8]),
        "of.self_attention #3 dense": (SelfAttention.Config(hidden=8), [0.5, 0.6]),
        "of.lstm #1 none": (LSTM.Config(hidden=8), [0.3, 0.2]),
    }
    confirmed(store, "of.confirm", methods)
    figure = lengths.accuracy(gather(StudyRecord.open(store, "of.confirm")))
    (panel,) = figure.panels
    assert {line.label: (line.color, line.dash) for line in marks(panel, Line)} == {
        "SAB (k_top=12, k_att=1, k_trunc=5) (n = 2)": (MAP[0], "solid"),
        "Self-attention LSTM, full BPTT (n = 2)": (MAP[-1], "solid"),
        "LSTM, full BPTT (n = 2)": (BLACK, "dash"),
    }


def test_an_ablation_has_a_color_for_each_method(store: Store) -> None:
    changes = {"winner": BASELINES["ours"], "k_att → 1": (SAB.Config(hidden=8, k_att=1), [0.5])}
    confirmed(store, "of.ablate", changes)
    figure = lengths.accuracy(gather(StudyRecord.open(store, "of.ablate")))
    assert figure.scale is None
    lines = marks(figure.panels[0], Line)
    assert [line.label for line in lines] == [
        "SAB (k_top=5, k_att=5, k_trunc=5), winner (n = 4)",
        "k_att → 1 (n = 1)",
    ]
    assert [line.color for line in lines] == list(METHODS[:2])


@pytest.mark.parametrize("model", [LSTM.Config(hidden=8), SelfAttention.Config(hidden=8)])
def test_equal_or_unknown_shares_give_way_to_the_score(store: Store, model: ModelConfig) -> None:
    data = of_models(store, model, model)
    figure = lengths.accuracy(data)
    assert figure.scale is not None
    assert (figure.scale.label, figure.scale.low_first) == ("score", False)
    assert (figure.scale.low, figure.scale.high) == (0.8, 0.9)
    (curves,) = marks(figure.panels[0], Curves)
    assert [curve.value for curve in curves.curves] == [0.8, 0.9]
    assert "search score" in figure.caption


def test_a_logarithmic_scale_has_round_ticks() -> None:
    scale = Scale.of_percentages("share", [1.2, 3.0, 60.0])
    assert [text for _, text in scale.ticks] == ["2", "5", "10", "20", "50"]
    assert [position for position, _ in scale.ticks] == pytest.approx(np.log10([2, 5, 10, 20, 50]))
    assert scale.place(1.2) == 0
    assert scale.place(60.0) == 1
    assert scale.place((1.2 * 60.0) ** 0.5) == pytest.approx(0.5)
    narrow = Scale.of_percentages("share", [10.0, 60.0])
    assert (narrow.log, narrow.ticks) == (False, [])
    assert Scale.of_percentages("share", [0.0, 60.0]).log is False


def luminance(color: str) -> float:
    """Return the relative luminance of a color by WCAG 2."""
    channels = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))


def contrast(a: str, b: str) -> float:
    """Return the contrast of two colors by WCAG 2, from 1 to 21."""
    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


def test_colors_are_visible_on_light_and_on_dark_pages() -> None:
    assert contrast(TEXT, WHITE) > 7
    assert contrast(DARK[TEXT], DARK[WHITE]) > 7
    for color in (*METHODS, GRAY):
        assert contrast(color, WHITE) > 2, color
        assert contrast(DARK.get(color, color), DARK[WHITE]) > 4, color
    light, dark = [luminance(color) for color in MAP], [luminance(DARK[color]) for color in MAP]
    assert light == sorted(light)
    assert dark == sorted(dark, reverse=True)
    assert min(contrast(color, WHITE) for color in MAP) > 1.6
    assert min(contrast(DARK[color], DARK[WHITE]) for color in MAP) > 2.5


def test_loss_is_drawn_for_tasks_with_a_loss_unit(
    found: ReportData, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert lengths.loss(found) is None
    monkeypatch.setattr(found.task, "loss_unit", "squared error")
    figure = lengths.loss(found)
    assert figure is not None
    assert {panel.y.label for panel in figure.panels} == {"loss (squared error)"}
    best = marks(figure.panels[1], Line)[-1]
    assert best.y == [result.loss for result in found.best.test]


def test_trials_look_different_by_state(found: ReportData) -> None:
    figure = space.scores(found)
    assert figure is not None
    k_top = figure.panels[0]
    assert k_top.x.label == "k_top (memories)"
    by_state = {
        "complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL
    }  # fmt: skip
    looks = set()
    for label, state in by_state.items():
        points = named(k_top, label)
        assert isinstance(points, Points)
        own = [trial for trial in found.trials if trial.state == state]
        assert len(points.x) == len(own)
        if label != "failed":
            assert list(points.y) == [trial.score for trial in own]
        else:
            assert set(points.y) == {space.FAILED_SCORE}
        values = [trial.params["k_top"] for trial in own]
        assert all(abs(x - k) < 0.5 for x, k in zip(points.x, values, strict=True))
        looks.add((points.color, points.symbol))
    assert len(looks) == 3


def test_infeasible_trials_have_their_own_mark(store: Store) -> None:
    study = searched(store, "bound", 6, in_memory=True)
    trial = study.ask()
    trial.set_user_attr(SPEC, study.trials[0].user_attrs[SPEC])
    trial.set_constraint("memory", 1.0)
    study.tell(trial, 0.99)
    figure = space.scores(gather(StudyRecord(study, store)))
    assert figure is not None
    points = named(figure.panels[0], "breaks a constraint")
    assert isinstance(points, Points)
    assert list(points.y) == [0.99]


def test_fields_are_the_values_that_differ(found: ReportData) -> None:
    names = [field.name for field in fields(found, found.ended)]
    assert names == ["k_top", "k_att", "schedule", "learning_rate"]  # all other fields are constant
    rate = next(field for field in fields(found, found.ended) if field.name == "learning_rate")
    assert rate.log
    assert rate.values == {t.number: t.params["learning_rate"] for t in found.ended}


def test_all_memories_and_no_truncation_have_numeric_values(store: Store) -> None:
    study = optuna.create_study(study_name="bounds", direction="maximize")
    for number, (k_top, k_trunc) in enumerate(((ALL, 5), (5, 0), (7, 9))):
        model = SAB.Config(hidden=8, k_top=k_top, k_att=10, k_trunc=k_trunc)
        study.add_trial(frozen(number, model, 0.5, TrialState.COMPLETE))
    data = gather(StudyRecord(study, store))
    by_name = {field.name: field.values for field in fields(data, data.ended)}
    assert by_name["k_top"] == {0: 1 + 120 // 10, 1: 5, 2: 7}
    assert by_name["k_trunc"] == {0: 5, 1: 120, 2: 9}
    figure = space.scores(data)
    assert figure is not None
    assert "number of memories of a training sequence" in figure.caption


def test_ticks_are_round_and_integers_for_integers() -> None:
    assert Field("k_att", {i: i for i in range(1, 11)}).ticks == [2, 4, 6, 8, 10]
    assert Field("k", {0: 3, 1: 9}).ticks == [3, 9]
    rates = Field("learning_rate", {i: 5e-4 * 1.2**i for i in range(12)})
    assert rates.ticks == pytest.approx([0.0005, 0.001, 0.002])


def beyond_chance(figure: Figure) -> list[dict[str, float]]:
    """Return, for each panel, the importances that exceed those by chance, by parameter."""
    found = []
    for panel in figure.panels:
        (chance,) = marks(panel, Points)
        bars = {at: x for of in marks(panel, Bars) for at, x in zip(of.at, of.heights, strict=True)}
        names = [name for _, name in panel.y.ticks]
        found.append({names[int(i)]: x for i, x in sorted(bars.items()) if x > chance.x[int(i)]})
        blue = [names[int(at)] for of in marks(panel, Bars) if of.color == BLUE for at in of.at]
        assert sorted(blue) == sorted(found[-1])
    return found


def test_importances_name_their_estimators_and_need_enough_trials(
    found: ReportData, store: Store
) -> None:
    figure = importance.importance(found)
    assert figure is not None
    assert "fANOVA and PED-ANOVA" in figure.title
    assert [panel.title for panel in figure.panels] == ["fANOVA", "PED-ANOVA"]
    for panel in figure.panels:
        heights = {
            at: x for of in marks(panel, Bars) for at, x in zip(of.at, of.heights, strict=True)
        }
        by_name = {name: heights[i] for i, name in panel.y.ticks}
        assert by_name.keys() == {"k_top", "k_att", "schedule", "learning_rate"}
        assert sum(by_name.values()) == pytest.approx(1)
        # Only k_att affects the score.
        assert max(by_name, key=lambda name: by_name[name]) == "k_att"
    assert {name for panel in beyond_chance(figure) for name in panel} == {"k_att"}
    tried = [trial for trial in found.ended if trial.state != TrialState.FAIL]
    assert any(trial.state == TrialState.PRUNED for trial in tried)
    assert f"(n = {len(tried)}, " in figure.caption
    few = gather(StudyRecord(searched(store, "few", 11, in_memory=True), store))
    assert importance.importance(few) is None


def drawn_at_random(store: Store, seed: int, decided_by: str | None) -> Figure:
    """Return the importances for 30 configurations whose score depends on one parameter or none."""
    random = np.random.default_rng(seed)
    study = optuna.create_study(direction="maximize")
    for number in range(30):
        params = {"k_top": int(random.integers(2, 12)), "k_att": int(random.integers(1, 11))}
        score = params[decided_by] / 12 if decided_by else float(random.uniform())
        model = SAB.Config(hidden=8, **params)  # type: ignore[arg-type]
        study.add_trial(frozen(number, model, score, TrialState.COMPLETE, params=params))
    figure = importance.importance(gather(StudyRecord(study, store)))
    assert figure is not None
    return figure


@pytest.mark.parametrize("name", ["k_top", "k_att"])
def test_a_parameter_that_matters_exceeds_chance(store: Store, name: str) -> None:
    figure = drawn_at_random(store, 0, decided_by=name)
    assert [list(names) for names in beyond_chance(figure)] == [[name], [name]]


def test_parameters_that_do_not_matter_rarely_exceed_chance(store: Store) -> None:
    figures = [drawn_at_random(store, seed, decided_by=None) for seed in range(5)]
    assert sum(len(names) for figure in figures for names in beyond_chance(figure)) <= 4  # of 20


def test_seeds_of_a_configuration_count_as_one_sample(store: Store) -> None:
    study = optuna.create_study(direction="maximize")
    for number in range(24):
        k_top = number % 12 + 2
        trial = frozen(
            number, SAB.Config(hidden=8, k_top=k_top), k_top / 20 + (number > 11) / 10,
            TrialState.COMPLETE, params={"k_top": k_top},
        )  # fmt: skip
        trial.user_attrs[SPEC]["configuration"] = number % 12
        study.add_trial(trial)
    drawn, scores = tried(StudyRecord(study, store))
    assert [trial.params["k_top"] for trial in drawn.trials] == list(range(2, 14))
    assert scores == pytest.approx([k / 20 + 0.05 for k in range(2, 14)])


@pytest.mark.parametrize("objectives", [1, 2])
def test_importances_are_for_high_scores(store: Store, objectives: int) -> None:
    """k_top decides the best and k_att the worst scores; PED-ANOVA considers only the best."""
    directions: list[Literal["maximize", "minimize"]] = ["maximize", "minimize"]
    study = optuna.create_study(study_name="ends", directions=directions[:objectives])
    for number in range(100):
        k_top, k_att = 2 + number % 10, 1 + number // 10
        score = 0.5 + 0.4 * (k_top == 2) - 0.45 * (k_att == 1) * (k_top != 2)
        study.add_trial(
            frozen(
                number, SAB.Config(hidden=8, k_top=k_top, k_att=k_att), score, TrialState.COMPLETE,
                params={"k_top": k_top, "k_att": k_att}, values=[score, 0.01][:objectives],
            )
        )  # fmt: skip
    figure = importance.importance(gather(StudyRecord(study, store)))
    assert figure is not None
    assert figure.panels[1].title == "PED-ANOVA"
    assert [text for _, text in figure.panels[1].y.ticks] == ["k_att", "k_top"]
    assert beyond_chance(figure)[1]["k_top"] > 0.9


def test_the_pareto_front_has_the_nondominated_trials(store: Store) -> None:
    objectives = ("score", "seconds_per_update")
    two = searched(store, "two", 30, objectives=objectives, in_memory=True)
    figure = space.pareto(gather(StudyRecord(two, store)))
    assert figure is not None
    line = named(figure.panels[0], "Pareto front")
    assert isinstance(line, Line)
    values = [t.values for t in two.trials if t.values]
    front = [
        (score, seconds)
        for score, seconds in values
        if not any((s > score and t <= seconds) or (s >= score and t < seconds) for s, t in values)
    ]
    assert sorted(zip(line.y, line.x, strict=True)) == sorted(front)
    assert figure.panels[0].x.label == "s per update"


def test_a_single_objective_has_no_pareto_front(found: ReportData) -> None:
    assert space.pareto(found) is None


def test_parallel_coordinates_run_from_0_to_1_and_end_at_the_score(found: ReportData) -> None:
    figure = parallel.parallel(found)
    assert figure is not None
    labels = [dimension.label for dimension in figure.dimensions]
    assert labels[:2] == ["k_top", "k_att"]
    assert labels[-2:] == ["state", "score"]
    for dimension in figure.dimensions:
        assert len(dimension.places) == len(figure.values)
        assert 0 <= min(dimension.places) <= max(dimension.places) <= 1
    scored = sorted(t.score for t in found.trials if t.state != TrialState.FAIL)
    assert list(figure.values) == scored
    low, high = scored[0], scored[-1]
    assert figure.dimensions[-1].places == pytest.approx(
        [(value - low) / (high - low) for value in scored]
    )
    start = next(
        d for d in figure.dimensions if d.label in ("start", "warmup", "share", "schedule")
    )
    assert start.ticks


def test_schedules_show_the_k_top_in_force(found: ReportData) -> None:
    figure = training.schedules(found)
    assert figure is not None
    for label, state in (("complete", TrialState.COMPLETE), ("failed", TrialState.FAIL)):
        curves = named(figure.panels[0], label)
        assert isinstance(curves, Curves)
        assert len(curves.curves) == sum(trial.state == state for trial in found.trials)
    (curves,) = [m for m in marks(figure.panels[0], Curves) if m.label == "complete"]
    curve = next(c for c in curves.curves if c.name.startswith(f"#{found.best.number} "))
    model = found.run.build_model(found.task)
    for done in (0, 10, 25, 50, 100):
        model.set_progress(done / 100)
        assert curve.y[curve.x.index(done)] == model.in_force()["k_top"]
    assert curve.value == found.best.score


def test_learning_curves_have_a_point_per_report(found: ReportData) -> None:
    figure = training.learning(found)
    assert figure is not None
    (score,) = figure.panels  # these trials have no files, so there is no loss
    best = named(score, f"the best, #{found.best.number}")
    assert isinstance(best, Curves)
    (curve,) = best.curves
    assert list(curve.x) == [100 * i for i in range(1, 11)]
    assert curve.y == pytest.approx([found.best.score * i / 10 for i in range(1, 11)])
    assert "n = 40 trials" in figure.caption


def test_500_trials_are_thinned_with_a_note_in_the_captions(many: ReportData) -> None:
    figure, curves = parallel.parallel(many), training.learning(many)
    schedules, accuracy = training.schedules(many), lengths.accuracy(many)
    assert figure is not None
    assert curves is not None
    assert schedules is not None
    assert len(figure.values) == parallel.MAX_LINES
    assert f"{parallel.MAX_LINES} of " in figure.caption
    assert f"{training.MAX_CURVES} of 500 trials" in curves.caption
    assert f"{training.MAX_SCHEDULES} of 500 trials" in schedules.caption
    shown = sum(len(mark.curves) for mark in marks(curves.panels[0], Curves))
    assert shown == training.MAX_CURVES
    assert any("the best" in mark.label for mark in marks(curves.panels[0], Curves))
    assert len(marks(accuracy.panels[0], Curves)[0].curves) == lengths.MAX_CURVES
    assert f"{lengths.MAX_CURVES} of " in accuracy.caption
    scores = space.scores(many)
    assert scores is not None
    # The panel of scores is not thinned.
    assert sum(len(mark.x) for mark in marks(scores.panels[0], Points)) == 500


def test_thinning_keeps_both_ends() -> None:
    assert spread(range(1000), 4) == [0, 333, 666, 999]
    assert spread([1, 2], 4) == [1, 2]
