"""Figures of the diagnostics: what is drawn is the table, in the axes given."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from gbi_pyro import BayesFilter, Enumeration, OneStepGradient, TaskChain, plots, to_inference_data
from gbi_pyro._arviz import inference_data
from gbi_pyro.data.switching import SwitchingStream
from gbi_pyro.metrics.agreement import log_odds
from gbi_pyro.metrics.credible import credible_coverage
from gbi_pyro.metrics.ranks import rank_histogram
from gbi_pyro.metrics.reliability import reliability_table
from gbi_pyro.metrics.selective import risk_coverage
from gbi_pyro.models.switching import SwitchingGaussian

DRAW = torch.Generator().manual_seed(0)
EXACT = torch.randn(300, 3, generator=DRAW, dtype=torch.float64).log_softmax(-1)
LABELS = torch.multinomial(EXACT.exp(), 1, generator=DRAW).squeeze(-1)
SHARP = (3 * EXACT).log_softmax(-1)
POSTERIORS = {"exact": EXACT, "overconfident": SHARP}


def judged(diagnostic: Callable[..., Any], *options: Any) -> dict[str, Any]:
    return {name: diagnostic(q, LABELS, *options) for name, q in POSTERIORS.items()}


KINDS: dict[str, Callable[..., Axes]] = {
    "width": lambda ax: plots.reliability(judged(reliability_table, 8, "width"), ax),
    "mass": lambda ax: plots.reliability(judged(reliability_table, 8, "mass"), ax),
    "coverage": lambda ax: plots.credible_coverage(judged(credible_coverage), ax),
    "risk": lambda ax: plots.risk_coverage(judged(risk_coverage), ax),
    "ranks": lambda ax: plots.ranks(judged(rank_histogram), ax),
    "odds": lambda ax: plots.log_odds(log_odds(EXACT, SHARP), ax),
}


def bars(ax: Axes, label: str) -> np.ndarray:
    """Return what error bars show, (points, 4): x, y, low, high."""
    (found,) = [c for c in ax.containers if c.get_label() == label]
    data, _, (sticks,) = found.lines
    ends = np.array([s[:, 1] for s in sticks.get_segments()])
    return np.column_stack([data.get_xdata(), data.get_ydata(), ends])


def line(ax: Axes, label: str) -> np.ndarray:
    (found,) = [x for x in ax.lines if x.get_label() == label]
    return np.asarray(found.get_xydata())


@pytest.mark.parametrize("kind", KINDS)
def test_axes_given_are_the_axes_returned_and_the_legend_is_off_the_data(kind: str) -> None:
    figure = Figure(figsize=(9, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    assert KINDS[kind](left) is left
    assert left.get_xlabel()
    assert left.get_ylabel()
    assert not right.has_data()
    assert KINDS[kind](None).figure is not figure
    figure.draw_without_rendering()
    legend = left.get_legend()
    assert legend is not None
    assert not legend.get_window_extent().overlaps(left.get_window_extent())


@pytest.mark.parametrize("kind", ["width", "mass", "coverage", "risk", "ranks", "odds"])
def test_curves_differ_without_colour(kind: str) -> None:
    ax = KINDS[kind](None)
    if kind in ("width", "mass", "coverage"):
        looks = [(c.lines[0].get_marker(), c.lines[0].get_linestyle()) for c in ax.containers]
    elif kind == "risk":
        looks = [(x.get_linestyle(), str(x._dash_pattern)) for x in ax.lines]
    elif kind == "ranks":
        looks = [str(p.get_linestyle()) for p in ax.patches if p.get_label() in POSTERIORS]
    else:
        looks = [x.get_marker() for x in ax.lines[:-1]]
    assert len(looks) == len(set(looks)) >= 2


@pytest.mark.parametrize("strategy", ["width", "mass"])
def test_a_reliability_diagram_shows_its_table(strategy: str) -> None:
    tables = judged(reliability_table, 8, strategy)
    ax = plots.reliability(tables)
    for name, t in tables.items():
        rows = np.column_stack([t.confidence, t.accuracy, t.accuracy_low, t.accuracy_high])
        np.testing.assert_allclose(bars(ax, name), rows, atol=1e-12)
    np.testing.assert_array_equal(line(ax, "calibrated"), [[0, 0], [1, 1]])


def test_coverage_is_held_against_what_the_sets_claim() -> None:
    tables = judged(credible_coverage)
    ax = plots.credible_coverage(tables)
    for name, t in tables.items():
        rows = np.column_stack([t.claimed, t.coverage, t.coverage_low, t.coverage_high])
        np.testing.assert_allclose(bars(ax, name), rows, atol=1e-12)
        assert ax.get_xlim()[0] < rows.min()


def test_risk_is_drawn_against_coverage() -> None:
    curves = judged(risk_coverage)
    ax = plots.risk_coverage(curves)
    for name, curve in curves.items():
        np.testing.assert_array_equal(line(ax, name), np.column_stack([curve.coverage, curve.risk]))


def test_ranks_are_drawn_with_the_band_of_the_calibrated() -> None:
    tables = judged(rank_histogram, 5)
    ax = plots.ranks(tables)
    band, flat, *drawn = ax.patches
    first = tables["exact"]
    np.testing.assert_array_equal(band.get_data().values, first.band_high)
    np.testing.assert_array_equal(band.get_data().baseline, first.band_low)
    np.testing.assert_allclose(flat.get_data().values, 0.2)
    for patch, (name, table) in zip(drawn, tables.items(), strict=True):
        assert patch.get_label() == name
        np.testing.assert_array_equal(patch.get_data().values, table.share)
        np.testing.assert_allclose(patch.get_data().edges, np.linspace(0, 1, 6))


def test_log_odds_have_a_marker_for_each_task_but_the_reference() -> None:
    odds = log_odds(EXACT, SHARP, reference=0)
    ax = plots.log_odds(odds, names=["a", "b", "c"])
    assert [x.get_label() for x in ax.lines] == ["task b", "task c", "estimate = exact"]
    for k, name in ((1, "task b"), (2, "task c")):
        expected = np.column_stack([odds.exact[:, k], odds.estimate[:, k]])
        np.testing.assert_array_equal(line(ax, name), expected)
    # A temperature is a slope: here of 3.
    np.testing.assert_allclose(line(ax, "task b")[:, 1], 3 * line(ax, "task b")[:, 0])
    impossible = torch.tensor([[0.5, 0.5, 0.0], [0.2, 0.3, 0.5]]).log()
    (_, third, _) = plots.log_odds(log_odds(impossible, impossible, reference=0)).lines
    assert len(third.get_xdata()) == 1  # -inf has no place


def test_a_divergence_map_has_a_cell_for_each_pair() -> None:
    values = np.array([[1e-12, 0.02, np.nan], [12.3, 0.5, 0.0]])
    figure = Figure()
    ax = figure.subplots()
    assert plots.divergence_map(values, [2, 5], [0.1, 0.3, 1.0], ax) is ax
    assert [t.get_text() for t in ax.texts] == ["<1e-6", "0.02", "12", "0.5", "<1e-6"]
    assert [t.get_text() for t in ax.get_xticklabels()] == ["0.1", "0.3", "1"]
    assert [t.get_text() for t in ax.get_yticklabels()] == ["2", "5"]
    drawn = ax.images[0]
    assert drawn.get_cmap().name == "Greys"
    shade = drawn.norm(drawn.get_array())
    assert shade[0, 0] == shade[1, 2] == 0 < shade[0, 1] < shade[1, 1] < shade[1, 0]
    for text, grey in zip(ax.texts, shade.compressed(), strict=True):
        # A contrast of 3 to 1 can be read (WCAG 2.1, 1.4.11); grey is linearised to luminance.
        ground = drawn.get_cmap()(grey)[0] ** 2.2
        ink = 1.0 if text.get_color() == "white" else 0.0
        bright, dark = max(ground, ink), min(ground, ink)
        assert (bright + 0.05) / (dark + 0.05) >= 3


@pytest.fixture
def stream(generator: torch.Generator) -> tuple[SwitchingStream, Tensor, Tensor]:
    toy = SwitchingStream(sigma=0.3)
    return toy, *toy.sample(2, 40, generator)


def test_the_posterior_from_inference_data_is_that_of_the_result(
    stream: tuple[SwitchingStream, Tensor, Tensor],
) -> None:
    toy, x, z = stream
    model = SwitchingGaussian(torch.tensor(toy.means), toy.sigma)
    chain = TaskChain(toy.log_initial, toy.log_transition)
    estimate = BayesFilter(OneStepGradient(temperature=2.0), chain)(model, x)
    exact = BayesFilter(Enumeration(), chain)(model, x)
    data = to_inference_data(estimate, labels={"z": z}, exact=exact)
    one = plots.task_probs(data, task=1, sequence=1)
    other = plots.task_probs(estimate.probs(), exact.probs(), z, task=1, sequence=1)
    for label in ("estimate", "exact"):
        np.testing.assert_allclose(line(one, label), line(other, label), atol=1e-7)
    assert not np.allclose(line(one, "estimate"), line(one, "exact"), atol=1e-3)
    zorder = {x.get_label(): i for i, x in enumerate(one.lines)}
    assert zorder["exact"] < zorder["estimate"]  # the exact one lies behind
    blocks = [p.get_extents().intervalx.tolist() for p in one.collections[0].get_paths()]
    shown = np.concatenate([np.arange(a + 0.5, b) for a, b in blocks])
    np.testing.assert_array_equal(shown, 1 + np.flatnonzero(z[1] == 1))


def test_what_inference_data_lack_is_named() -> None:
    empty = inference_data({"constant_data": xr.Dataset({"z": ("time", np.zeros(3))})}, {})
    with pytest.raises(ValueError, match=r"group task_probs; got .*'constant_data'.*to_inference"):
        plots.task_probs(empty)
    probs = xr.Dataset({"z": (("time", "z_task"), np.full((3, 2), 0.5))}, {"z_task": [0, 1]})
    data = inference_data({"task_probs": probs}, {})
    with pytest.raises(ValueError, match=r"site should be one of \['z'\].*got 'w'"):
        plots.task_probs(data, site="w")


TABLE = {"confidence": [0.5], "accuracy": [0.5], "accuracy_low": [0.1], "accuracy_high": [0.9]}


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (
            lambda: plots.reliability({"a": risk_coverage(EXACT, LABELS)}),
            r"tables\['a'\] should have the columns confidence.*RiskCoverage without 'confidence'",
        ),
        (
            lambda: plots.reliability({"a": {**TABLE, "accuracy": [0.5, 0.6]}}),
            r"tables\['a'\].accuracy should have shape \(1\); got \(2,\)",
        ),
        (lambda: plots.credible_coverage({"a": {}}), r"tables\['a'\] .* without 'claimed'"),
        (lambda: plots.risk_coverage({"a": TABLE}), r"curves\['a'\] .* without 'coverage'"),
        (lambda: plots.ranks({"a": TABLE}), r"tables\['a'\] .*dict without 'low'"),
        (
            lambda: plots.ranks({str(n): rank_histogram(EXACT, LABELS, n) for n in (5, 10)}),
            r"tables\['10'\].low should have shape \(5\); got \(10,\)",
        ),
        (lambda: plots.log_odds((1.0, 1.0)), r"odds.exact should have shape \(..., K\)"),
        (
            lambda: plots.log_odds((EXACT, EXACT[1:])),
            r"odds.estimate should have shape \(300, 3\); got \(299, 3\)",
        ),
        (
            lambda: plots.divergence_map([[1.0]], [2, 3], [0.1]),
            r"divergence should have shape \(2, 1\); got \(1, 1\)",
        ),
        (
            lambda: plots.divergence_map([[-0.5]], [2], [0.1]),
            "divergence should be 0 or more; got -0.5",
        ),
    ],
)
def test_invalid_tables_are_named(draw: Callable[[], Axes], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        draw()
