"""Runs beside one another: what is drawn is the table of their differences."""

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from gbi_pyro import plots

ROWS = [
    {"quantity": "loss", "run": "b", "difference": -0.2, "low": -0.3, "high": -0.1},
    {"quantity": "loss", "run": "c", "difference": 0.1, "low": -0.1, "high": 0.4},
    {"quantity": "error", "run": "c", "difference": 2.0, "low": None, "high": None},
]


def points(ax: Axes) -> list[tuple[float, float, str, str]]:
    """Return x, y, marker and fill of each run."""
    data = [container.lines[0] for container in ax.containers]
    return [
        (*(float(np.asarray(v)[0]) for v in d.get_data()), d.get_marker(), d.get_markerfacecolor())
        for d in data
    ]


def test_a_figure_shows_differences_and_whether_they_exclude_zero() -> None:
    ax = plots.comparison(ROWS[:2], reference="a")
    assert points(ax) == [(-0.2, 0, "o", "black"), (0.1, 1, "s", "white")]
    ends = [c.lines[2][0].get_segments()[0][:, 0].tolist() for c in ax.containers]
    assert ends[0] == pytest.approx([-0.3, -0.1])
    assert ends[1] == pytest.approx([-0.1, 0.4])
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["b", "c"]
    assert ax.get_xlabel() == "difference from a"


def test_every_quantity_has_axes_and_every_run_its_marker() -> None:
    axes = plots.comparisons(ROWS)
    assert [ax.get_title(loc="left") for ax in axes] == ["loss", "error"]
    assert [p[2] for p in points(axes[1])] == ["s"]  # as in the other axes
    assert points(axes[1])[0][3] == "white"  # nothing is known of its interval
    given = list(Figure().subplots(1, 2))
    assert plots.comparisons(ROWS, given) == given


def test_a_figure_is_black_and_white() -> None:
    figure = plots.comparisons(ROWS)[0].figure
    assert isinstance(figure, Figure)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    image = np.asarray(canvas.buffer_rgba())[..., :3].astype(int)
    assert np.ptp(image, axis=-1).max() == 0
    assert image.std() > 0


def test_long_names_do_not_displace_the_data() -> None:
    long = [{**row, "run": "a-very-long-name/" * 8 + str(row["run"])} for row in ROWS]
    for ax in plots.comparisons(long, reference="another-long-name/" * 8):
        assert isinstance(ax.figure, Figure)
        FigureCanvasAgg(ax.figure).draw()
        assert ax.get_window_extent().width > 0.25 * ax.figure.bbox.width / 2


def test_rows_that_cannot_be_drawn_are_named() -> None:
    with pytest.raises(ValueError, match=r"rows should be of one quantity; got \['error', 'loss'"):
        plots.comparison(ROWS)
    with pytest.raises(ValueError, match="one quantity; got none"):
        plots.comparison([])
    with pytest.raises(ValueError, match="at least one difference"):
        plots.comparisons([])
    with pytest.raises(ValueError, match=r"axes should be 2, one for each of .*got 1"):
        plots.comparisons(ROWS, [Figure().subplots()])
