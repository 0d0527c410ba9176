"""Figures of chains and sessions: what is drawn are the numbers given."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from gbi_pyro import metrics, plots
from gbi_pyro.plots.session import band_colour

RNG = np.random.default_rng(0)
T, K = 40, 3
PROBS = RNG.dirichlet(np.ones(K), T)
PATH = PROBS.argmax(-1)
MARKS = {"error": RNG.random(T) < 0.3}
NAMES = ["engaged", "biased left", "biased right"]
A = np.array([[0.995, 0.0049, 0.0001], [0.1, 0.9, 0.0], [0.0, 0.0, 1.0]])
AT = RNG.normal(size=12)
A_AT = RNG.dirichlet(np.ones(K), (12, K))
TABLES = {
    name: metrics.kaplan_meier(RNG.integers(1, 9, 30), RNG.random(30) < 0.3) for name in NAMES
}
LAWS = {name: 0.7 ** np.arange(60) for name in NAMES[:2]}
TRIALS = metrics.psychometric(RNG.normal(size=T), RNG.random(T) < 0.5, PROBS, 5)
GRID = np.linspace(-2, 2, 9)
CURVES = GRID, RNG.random((K, 9))

KINDS: dict[str, Callable[..., Axes | list[Axes]]] = {
    "transitions": lambda **o: plots.transitions(A, **o),
    "transitions_by": lambda **o: plots.transitions_by(AT, A_AT, **o),
    "dwell_times": lambda **o: plots.dwell_times(TABLES, LAWS, **o),
    "session": lambda **o: plots.session(PROBS, path=PATH, marks=MARKS, **o),
    "psychometric": lambda **o: plots.psychometric(TRIALS, CURVES, **o),
    "predictive_check": lambda **o: plots.predictive_check(3.0, np.arange(9.0), **o),
    "autocorrelation": lambda **o: plots.autocorrelation(np.ones(4), np.ones((5, 4)), **o),
}
SIDE_BY_SIDE = ("transitions_by", "dwell_times")


def line(ax: Axes, label: str) -> Any:
    (found,) = [x for x in ax.lines if x.get_label() == label]
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_axes_given_are_the_axes_returned_and_say_what_they_show(kind: str) -> None:
    axes = list(Figure().subplots(1, 3))
    found = KINDS[kind](axes=axes) if kind in SIDE_BY_SIDE else [KINDS[kind](ax=axes[0])]
    assert found == axes[: len(found)]  # type: ignore[arg-type]
    own = KINDS[kind]()
    first = own[0] if isinstance(own, list) else own
    for ax in (axes[0], first):
        assert ax.get_xlabel()
        assert ax.get_ylabel()
    assert first.figure is not axes[0].figure


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "transitions"])
def test_the_legend_covers_no_data(kind: str) -> None:
    own = KINDS[kind]()
    for ax in own if isinstance(own, list) else [own]:
        figure, legend = ax.figure, ax.get_legend()
        assert isinstance(figure, Figure)
        figure.draw_without_rendering()
        assert legend is not None
        assert not legend.get_window_extent().overlaps(ax.get_window_extent())
        assert legend.get_window_extent().y1 <= figure.bbox.y1


def test_transitions_are_written_to_three_decimals_where_they_are_not_zero() -> None:
    ax = plots.transitions(torch.tensor(A), names=NAMES)
    np.testing.assert_array_equal(ax.images[0].get_array(), A)
    assert [t.get_text() for t in ax.texts] == [".995", ".005", ".100", ".900", "1"]
    assert [t.get_text() for t in ax.get_yticklabels()] == NAMES
    assert (ax.get_ylabel(), ax.get_xlabel()) == ("from task", "to task")


def test_transitions_by_a_covariate_are_curves_in_its_order() -> None:
    axes = plots.transitions_by(AT, A_AT, names=NAMES, xlabel="reward")
    sort = np.argsort(AT)
    for i, ax in enumerate(axes):
        assert ax.get_title(loc="left") == f"from {NAMES[i]}"
        assert ax.get_xlabel() == "reward"
        for j, name in enumerate(NAMES):
            np.testing.assert_array_equal(line(ax, f"to {name}").get_xdata(), AT[sort])
            np.testing.assert_array_equal(line(ax, f"to {name}").get_ydata(), A_AT[sort, i, j])
    assert plots.transitions_by(AT, A_AT, log=True)[0].get_yscale() == "log"


def test_dwell_times_are_steps_over_the_law_behind() -> None:
    axes = plots.dwell_times(TABLES, LAWS)
    for ax, (name, table) in zip(axes, TABLES.items(), strict=True):
        share = line(ax, "Kaplan-Meier")
        np.testing.assert_allclose(share.get_ydata(), table.survival)
        np.testing.assert_array_equal(share.get_xdata(), table.time)
        assert share.get_drawstyle() == "steps-post"
        assert ax.get_title(loc="left") == name
        assert ax.get_yscale() == "log"
        labels = ax.get_legend_handles_labels()[1]
        assert ("law of the chain" in labels) == (name in LAWS)
        if name in LAWS:
            law = line(ax, "law of the chain")
            np.testing.assert_allclose(law.get_ydata(), LAWS[name][: len(table.time) + 1])
            assert law.get_zorder() < share.get_zorder()
        corners = ax.collections[0].get_paths()[0].vertices[:, 1]
        assert set(np.round(table.high.numpy(), 9)) <= set(np.round(corners, 9))
    assert plots.dwell_times(TABLES, log=False)[0].get_yscale() == "linear"


def test_bands_are_the_probabilities_and_the_path_lies_above() -> None:
    ax = plots.session(PROBS, path=PATH, marks=MARKS, names=NAMES, xlabel="trial")
    top = np.zeros(T)
    for k, band in enumerate(ax.patches):
        values, edges, base = band.get_data()  # type: ignore[attr-defined]
        np.testing.assert_allclose(base, top)
        np.testing.assert_allclose(values - base, PROBS[:, k])
        np.testing.assert_array_equal(edges, np.arange(T + 1) + 0.5)
        assert band.get_label() == NAMES[k]
        top = values
    for k, strip in enumerate(ax.collections):
        steps = set()
        for path in strip.get_paths():
            first, after = path.get_extents().intervalx
            steps |= set(range(int(first - 0.5), int(after - 0.5)))
            assert path.get_extents().y0 > 1
        assert steps == set(np.flatnonzero(k == PATH))
    marked = ax.lines[0]
    np.testing.assert_array_equal(marked.get_xdata(), np.flatnonzero(MARKS["error"]) + 1)
    labels = [t.get_text() for t in ax.get_yticklabels()]
    assert labels[-2:] == ["most probable path", "error"]
    assert marked.get_ydata()[0] == ax.get_yticks()[-1]


@pytest.mark.parametrize("K", [1, 2, 3, 5, 8])
def test_bands_get_lighter_from_task_to_task(K: int) -> None:
    grey = [np.dot(to_rgb(band_colour(k, K)), (0.299, 0.587, 0.114)) for k in range(K)]
    assert len(grey) == 1 or np.diff(grey) == pytest.approx(0.55 / (K - 1))
    assert all(0 <= part <= 1 for k in range(K) for part in band_colour(k, K))


def test_psychometric_points_have_their_intervals_and_their_curve() -> None:
    ax = plots.psychometric(TRIALS, CURVES, names=NAMES, xlabel="contrast")
    for k, name in enumerate(NAMES):
        (found,) = [c for c in ax.containers if c.get_label() == name]
        points, _, (sticks,) = found.lines
        np.testing.assert_allclose(points.get_xdata(), TRIALS.stimulus[k])
        np.testing.assert_allclose(points.get_ydata(), TRIALS.share[k])
        ends = np.array([segment[:, 1] for segment in sticks.get_segments()])
        np.testing.assert_allclose(ends, np.stack([TRIALS.low[k], TRIALS.high[k]], -1))
        curves = [x for x in ax.lines if len(x.get_xdata()) == len(GRID)]
        np.testing.assert_array_equal(curves[k].get_ydata(), CURVES[1][k])
        assert curves[k].get_color() == points.get_color()
    alone = plots.psychometric(TRIALS)
    assert alone.containers[0].lines[0].get_linestyle() == "-"


def test_checks_show_shares_of_draws_and_the_observed_value() -> None:
    drawn = np.append(RNG.integers(0, 9, 50), np.nan)
    ax = plots.predictive_check(4.0, drawn, xlabel="switches")
    (bars,) = ax.patches
    values, edges, _ = bars.get_data()  # type: ignore[attr-defined]
    np.testing.assert_allclose(values, np.bincount(drawn[:50].astype(int)) / 50)
    np.testing.assert_allclose(edges, np.arange(10) - 0.5)
    assert list(line(ax, "observed").get_xdata()) == [4.0, 4.0]
    latent = plots.predictive_check(drawn + 0.25, drawn)  # on the same bins
    first, second = (patch.get_data() for patch in latent.patches)  # type: ignore[attr-defined]
    np.testing.assert_array_equal(first.edges, second.edges)
    assert first.values.sum() == pytest.approx(1)
    assert second.values.sum() == pytest.approx(1)


def test_autocorrelation_lies_in_the_band_of_its_draws() -> None:
    observed, drawn = RNG.random(6), RNG.random((200, 6))
    ax = plots.autocorrelation(observed, drawn, level=0.8)
    np.testing.assert_array_equal(line(ax, "observed").get_ydata(), observed[1:])
    np.testing.assert_array_equal(line(ax, "observed").get_xdata(), np.arange(1, 6))
    np.testing.assert_allclose(line(ax, "their median").get_ydata(), np.median(drawn, 0)[1:])
    corners = np.round(ax.collections[0].get_paths()[0].vertices[:, 1], 9)
    for q in (0.1, 0.9):
        assert set(np.round(np.quantile(drawn[:, 1:], q, axis=0), 9)) <= set(corners)
    assert "replicated, 80 % of draws" in ax.get_legend_handles_labels()[1]


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: plots.transitions(A[:2]), r"A should have shape \(2, 2\); got \(2, 3\)"),
        (lambda: plots.transitions(np.log(A + 1e-9)), "A should hold probabilities.*exp"),
        (lambda: plots.transitions(A, names=["a"]), r"names should be 3.*\['a'\]"),
        (lambda: plots.transitions_by(AT[:5], A_AT), r"A should have shape \(5, K, K\)"),
        (lambda: plots.transitions_by(AT, A_AT, axes=[]), "axes should be 3.*got 0"),
        (lambda: plots.transitions_by(AT, A_AT, names=["a"]), "names should be 3"),
        (lambda: plots.dwell_times({"a": {}}), "should have the columns time, survival"),
        (lambda: plots.dwell_times(TABLES, {"other": [1.0]}), r"laws should be.*\['other'\]"),
        (lambda: plots.session(np.log(PROBS)), "probs should sum to 1"),
        (lambda: plots.session(PROBS, path=PATH[1:]), r"path should have shape \(40\)"),
        (lambda: plots.session(PROBS, marks={"e": PATH[1:]}), r"marks\['e'\] should have shape"),
        (lambda: plots.psychometric(TRIALS, (GRID, CURVES[1].T)), r"curves\[1\] .* \(3, 9\)"),
        (lambda: plots.psychometric({}), "should have the columns stimulus, share"),
        (lambda: plots.predictive_check([1.0, 2.0], [1.0]), r"observed should have shape \(1\)"),
        (lambda: plots.predictive_check(np.nan, [1.0]), "should have a finite value"),
        (lambda: plots.autocorrelation([1.0, 0.0], [[1.0]]), r"replicated .* \(draws, 2\)"),
        (lambda: plots.autocorrelation([1.0, 0.0], level=0.0), "level should be between"),
    ],
)
def test_invalid_input_is_named(draw: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        draw()
