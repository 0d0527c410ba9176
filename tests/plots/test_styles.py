"""Styles by name, titles, directions and legends: the same in every function of curves."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure

from gbi_pyro import plots
from gbi_pyro.plots import Style

RNG = np.random.default_rng(0)
NAMES = ("GBI", "LSTM", "control")
STYLES = {"LSTM": Style("#123456", (0, (5, 2)), "X", 3.0)}
CURVES = {name: RNG.normal(2, 0.1, (4, 6)) for name in NAMES}
TABLE = {
    **{"confidence": [0.5, 0.9], "accuracy": [0.5, 0.8]},
    **{"accuracy_low": [0.4, 0.7], "accuracy_high": [0.6, 0.9]},
    **{"claimed": [0.5, 0.9], "coverage": [0.5, 0.8]},
    **{"coverage_low": [0.4, 0.7], "coverage_high": [0.6, 0.9]},
    **{"risk": [0.1, 0.2], "low": [0.0, 0.5], "high": [0.5, 1.0], "share": [0.4, 0.6]},
    **{"band_low": [0.4, 0.4], "band_high": [0.6, 0.6]},
}
TABLES = dict.fromkeys(NAMES, TABLE)
ESTIMATES = {name: [[1.0, 0.5, 2.0], [3.0, 2.0, 4.0]] for name in NAMES}
AT = np.arange(6.0)

KINDS: dict[str, Callable[..., Axes]] = {
    "curves": lambda **o: plots.curves(CURVES, **o),
    "blocks": lambda **o: plots.blocks(CURVES, **o),
    "binned": lambda **o: plots.binned(CURVES, 2, **o),
    "by_mean": lambda **o: plots.by_mean(AT, CURVES, **o),
    "predicted_mean": lambda **o: plots.predicted_mean(AT, CURVES, **o),
    "every_seed": lambda **o: plots.every_seed(AT, CURVES, xlabel="x", ylabel="y", **o),
    "reliability": lambda **o: plots.reliability(TABLES, **o),
    "credible_coverage": lambda **o: plots.credible_coverage(TABLES, **o),
    "risk_coverage": lambda **o: plots.risk_coverage(TABLES, **o),
    "ranks": lambda **o: plots.ranks(TABLES, **o),
    "roc": lambda **o: plots.roc(dict.fromkeys(NAMES, ([0.0, 1.0], [0.0, 1.0])), **o),
    "intervals": lambda **o: plots.intervals(["a", "b"], ESTIMATES, xlabel="gain", **o),
}


def look(ax: Axes, name: str) -> dict[str, Any]:
    """Return what is seen of a curve: colour, dash, width and marker, None where it has none."""
    handles, labels = ax.get_legend_handles_labels()
    handle: Any = handles[labels.index(name)]
    line = handle.lines[0] if isinstance(handle, ErrorbarContainer) else handle
    colour = line.get_color() if hasattr(line, "get_color") else line.get_edgecolor()
    dashed = line.get_linestyle() != "None"
    return {
        "colour": to_hex(colour),
        "dash": tuple(np.array(line._dash_pattern[1] or ()) / line.get_linewidth()),
        "width": line.get_linewidth() if dashed else None,
        "marker": line.get_marker() if hasattr(line, "get_marker") else "None",
    }


@pytest.mark.parametrize("kind", KINDS)
def test_a_style_follows_the_name_and_other_curves_keep_their_own(kind: str) -> None:
    plain, styled = KINDS[kind](), KINDS[kind](styles=STYLES)
    for name in ("GBI", "control"):
        assert look(plain, name) == look(styled, name)
    seen = look(styled, "LSTM")
    assert seen["colour"] == "#123456"
    assert seen["marker"] in ("X", "None")
    if seen["width"] is None:  # points without a line
        assert seen["marker"] == "X"
    else:
        assert seen["width"] == 3.0
        assert seen["dash"] == (5, 2)


@pytest.mark.parametrize("kind", KINDS)
def test_titles_stand_above_the_legend_and_arrows_point_to_what_is_better(kind: str) -> None:
    axis = "x" if kind == "intervals" else "y"
    plain = getattr(KINDS[kind](), f"get_{axis}label")()
    for better, words in (("higher", "better →"), ("lower", "← better")):
        ax = KINDS[kind](title="A title", better=better)
        assert getattr(ax, f"get_{axis}label")() == f"{plain}\n{words}"
    assert ax.get_title(loc="left") == "A title"
    figure, legend = ax.figure, ax.get_legend()
    assert isinstance(figure, Figure)
    assert legend is not None
    figure.draw_without_rendering()
    title = ax._left_title.get_window_extent()  # type: ignore[attr-defined]
    assert title.y0 >= legend.get_window_extent().y1 - 3  # margins of both


@pytest.mark.parametrize("kind", KINDS)
def test_other_directions_are_an_error(kind: str) -> None:
    with pytest.raises(ValueError, match="better should be 'higher', 'lower' or None; got 'up'"):
        KINDS[kind](better="up")


def test_the_wider_of_two_curves_lies_behind() -> None:
    styles = {"GBI": Style("0.6", width=4.0), "LSTM": Style("black", width=1.0)}
    two = {name: CURVES[name] for name in styles}
    wide, narrow = plots.curves(two, styles=styles).lines
    assert wide.get_zorder() < narrow.get_zorder()


def test_runs_are_compared_in_their_styles_and_directions() -> None:
    row = {"run": "LSTM", "difference": -0.2, "low": -0.3, "high": -0.1}
    rows = [{"quantity": quantity, **row} for quantity in ("loss", "size")]
    loss, size = plots.comparisons(rows, styles=STYLES, better={"loss": "lower"})
    assert loss.get_xlabel().endswith("← better")
    assert "better" not in size.get_xlabel()
    for ax in (loss, size):
        (bar,) = ax.containers
        assert bar.lines[0].get_color() == "#123456"
        assert bar.lines[0].get_marker() == "X"


def test_many_curves_have_whiskers_of_their_own_in_place_of_bands() -> None:
    values = {str(i): RNG.normal(2, 0.1, (4, 40)) for i in range(6)}
    ax = plots.curves(values)
    whiskers = [bar.lines[2][0].get_segments() for bar in ax.containers]
    steps = [{segment[0, 0] for segment in found} for found in whiskers]
    assert len(set.union(*steps)) == sum(map(len, steps))  # no two at one step
    for found, seeds in zip(whiskers, values.values(), strict=True):
        sem = seeds.std(0, ddof=1) / 2
        for segment in found:
            assert np.diff(segment[:, 1]) / 2 == pytest.approx(sem[int(segment[0, 0]) - 1])
    assert len(plots.curves({"a": values["0"], "b": values["1"]}).collections) == 2


@pytest.mark.parametrize("count", [6, 7])
def test_a_legend_of_more_than_six_entries_stands_beside_the_axes(count: int) -> None:
    values = {f"curve {i}": CURVES["GBI"] + i for i in range(count)}
    ax = plots.curves(values, floor={"a level": 1.0})
    figure, legend = ax.figure, ax.get_legend()
    assert isinstance(figure, Figure)
    assert legend is not None
    figure.draw_without_rendering()
    assert [text.get_text() for text in legend.get_texts()] == list(values)
    (level,) = ax.texts
    box, axes = legend.get_window_extent(), ax.get_window_extent()
    assert (box.y0 >= axes.y1) == (count == 6)
    assert (box.x0 >= axes.x1) == (count == 7)
    assert not box.overlaps(level.get_window_extent())


def test_ten_tasks_in_a_plane_differ_and_their_names_do_not_overlap() -> None:
    tasks = np.arange(500) % 10
    points = RNG.normal(size=(500, 2)) + 0.1 * RNG.normal(size=(10, 2))[tasks]
    ax = plots.plane(points, tasks, names=[f"class {k}" for k in range(10)])
    figure = ax.figure
    assert isinstance(figure, Figure)
    figure.draw_without_rendering()
    assert len({to_hex(dots.get_facecolor()[0]) for dots in ax.collections}) == 10
    shapes = {tuple(dots.get_paths()[0].vertices.ravel().round(6)) for dots in ax.collections}
    assert len(shapes) == 10
    boxes = [text.get_window_extent() for text in ax.texts]
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
