import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import imread

from gbi_pyro import _arviz, plots

RNG = np.random.default_rng(0)
T, K, SEEDS = 30, 3, 4
STEPS = np.arange(1, T + 1)
Z = np.repeat([0, 1, 2, 1], [10, 5, 1, 14])
PROBS = RNG.dirichlet(np.ones(K), (2, T))
EXACT = RNG.dirichlet(np.ones(K), (2, T))
CURVES = {"GBI": RNG.normal(1, 0.1, (SEEDS, T)), "LSTM": RNG.normal(2, 0.1, (SEEDS, T))}
MEANS = np.linspace(-0.2, 1.2, T)

KINDS: dict[str, Callable[..., Axes]] = {
    "stream": lambda ax: plots.stream(RNG.normal(size=T), Z, [0.2, 0.5, 0.8], ax),
    "task_probs": lambda ax: plots.task_probs(PROBS[0], EXACT[0], Z, ax=ax),
    "likelihood": lambda ax: plots.likelihood(np.log(PROBS[0]), ax),
    "curves": lambda ax: plots.curves(CURVES, ax, floor=0.5),
    "blocks": lambda ax: plots.blocks(CURVES, ax, floor={"floor": 0.5, "ceiling": 3.0}),
    "binned": lambda ax: plots.binned(CURVES, 7, ax),
    "every_seed": lambda ax: plots.every_seed(MEANS, CURVES, ax, xlabel="x", ylabel="y"),
    "by_mean": lambda ax: plots.by_mean(MEANS, CURVES, (0.2, 0.8), ax, log=True),
    "predicted_mean": lambda ax: plots.predicted_mean(MEANS, CURVES, ax),
    "gradients": lambda ax: plots.gradients(PROBS[0], Z, ax),
    "evidence": lambda ax: plots.binary_log_odds(PROBS, EXACT, ax),
}


def line(ax: Axes, label: str) -> np.ndarray:
    (found,) = [x for x in ax.lines if x.get_label() == label]
    return np.asarray(found.get_ydata())


def bars(ax: Axes, label: str) -> tuple[np.ndarray, np.ndarray]:
    """Return what an error bar shows: its points and the half lengths of its bars."""
    (found,) = [c for c in ax.containers if c.get_label() == label]
    data, _, (sticks,) = found.lines
    # A bar of unknown length has no segment.
    half = [(s[1, 1] - s[0, 1]) / 2 if len(s) else np.nan for s in sticks.get_segments()]
    return np.asarray(data.get_ydata()), np.array(half)


def inference_data() -> Any:
    dims = ["sequence", "time", "z_task"]
    coords = {"z_task": ["low", "middle", "high"]}
    groups = {
        "task_probs": xr.Dataset({"z": (dims, PROBS)}, coords),
        "exact_task_probs": xr.Dataset({"z": (dims, EXACT)}, coords),
        "constant_data": xr.Dataset({"z": (dims[:2], np.stack([Z[::-1], Z]))}),
    }
    return _arviz.inference_data(groups, {})


@pytest.mark.parametrize("kind", KINDS)
def test_axes_given_are_the_axes_returned_and_say_what_they_show(kind: str) -> None:
    figure = Figure()
    left, right = figure.subplots(1, 2)
    assert KINDS[kind](left) is left
    assert left.get_xlabel()
    assert left.get_ylabel()
    assert left.get_legend_handles_labels()[1]
    assert left.get_legend() is not None
    assert not right.has_data()
    own = KINDS[kind](None)
    assert own.figure is not figure
    assert own.get_ylabel() == left.get_ylabel()


@pytest.mark.parametrize("kind", KINDS)
def test_the_legend_covers_no_data(kind: str) -> None:
    figure = Figure(figsize=(9, 3), layout="constrained")
    for ax in figure.subplots(1, 3):
        KINDS[kind](ax)
    figure.draw_without_rendering()
    for ax in figure.axes:
        legend = ax.get_legend()
        assert legend is not None
        assert not legend.get_window_extent().overlaps(ax.get_window_extent())
        assert legend.get_window_extent().y1 <= figure.bbox.y1
    first, second = (ax.get_legend() for ax in figure.axes[:2])
    assert first is not None
    assert second is not None
    assert not first.get_window_extent().overlaps(second.get_window_extent())


def test_stream_shows_the_data_and_the_mean_of_the_task() -> None:
    x, means = RNG.normal(size=T), np.array([0.2, 0.5, 0.8])
    ax = plots.stream(torch.tensor(x), torch.tensor(Z), means, prediction=x + 1)
    np.testing.assert_array_equal(line(ax, "observation"), x)
    np.testing.assert_array_equal(line(ax, "mean of the task"), means[Z])
    np.testing.assert_array_equal(line(ax, "prediction"), x + 1)
    np.testing.assert_array_equal(ax.lines[0].get_xdata(), STEPS)


def test_task_probs_shows_one_task_and_its_blocks() -> None:
    ax = plots.task_probs(PROBS[0], EXACT[0], Z, task=1)
    np.testing.assert_array_equal(line(ax, "estimate"), PROBS[0, :, 1])
    np.testing.assert_array_equal(line(ax, "exact"), EXACT[0, :, 1])
    ends = [path.get_extents().intervalx.tolist() for path in ax.collections[0].get_paths()]
    assert ends == [[10.5, 15.5], [16.5, 30.5]]
    one_step = plots.task_probs(PROBS[0], z=Z, task=2)  # a block of one step is seen too
    extents = one_step.collections[0].get_paths()[0].get_extents()
    assert extents.intervalx.tolist() == [15.5, 16.5]
    plots.task_probs(PROBS[0], z=np.zeros(T), task=2)  # and no block at all is fine


def test_task_probs_reads_inference_data() -> None:
    ax = plots.task_probs(inference_data(), task=1, sequence=1)
    by_hand = plots.task_probs(PROBS, EXACT, np.stack([Z, Z]), task=1, sequence=1)
    for label in ("estimate", "exact"):
        np.testing.assert_array_equal(line(ax, label), line(by_hand, label))
    assert len(ax.collections[0].get_paths()) == 2
    assert ax.get_ylabel() == "p(task middle | x)"


def test_likelihood_and_gradients_show_one_line_per_task() -> None:
    names = ["low", "middle", "high"]
    ax = plots.likelihood(np.log(PROBS[0]), names=names)
    other = plots.gradients(-PROBS[0], Z)
    for k, name in enumerate(names):
        np.testing.assert_allclose(line(ax, f"task {name}"), PROBS[0, :, k])
        np.testing.assert_array_equal(line(other, f"task {k}"), -PROBS[0, :, k])
    vertical = [x.get_xdata()[0] for x in other.lines if x.get_xdata()[0] == x.get_xdata()[-1]]
    assert vertical == [10.5, 15.5, 16.5]
    assert other.get_legend_handles_labels()[1].count("switch") == 1


def test_curves_show_mean_and_standard_error() -> None:
    ax = plots.curves(CURVES, floor=0.5)
    for i, (name, values) in enumerate(CURVES.items()):
        mean, sem = values.mean(0), values.std(0, ddof=1) / np.sqrt(SEEDS)
        np.testing.assert_allclose(line(ax, name), mean)
        corners = ax.collections[i].get_paths()[0].vertices
        for level in (mean - sem, mean + sem):
            np.testing.assert_allclose(np.abs(corners[:, 1] - level[:, None]).min(1), 0, atol=1e-12)
    assert [text.get_text() for text in ax.texts] == ["noise floor"]
    assert ax.lines[-1].get_ydata() == [0.5, 0.5]


def test_blocks_and_means_show_mean_and_standard_error() -> None:
    for ax in (
        plots.blocks(CURVES),
        plots.by_mean(MEANS, CURVES, (0.2, 0.8)),
        plots.predicted_mean(MEANS, CURVES, hull=(0.2, 0.8)),
    ):
        for name, values in CURVES.items():
            mean, half = bars(ax, name)
            np.testing.assert_allclose(mean, values.mean(0))
            np.testing.assert_allclose(half, values.std(0, ddof=1) / np.sqrt(SEEDS))
    assert line(ax, "predicted = true").tolist() == MEANS.tolist()


def test_by_mean_shades_the_training_range() -> None:
    ax = plots.by_mean(MEANS, CURVES, hull=(0.2, 0.8), log=True)
    (band,) = ax.patches
    assert band.get_extents().transformed(ax.transData.inverted()).intervalx == pytest.approx(
        [0.2, 0.8]
    )
    assert ax.get_yscale() == "log"


def test_bins_average_each_seed_first() -> None:
    values = RNG.normal(size=(SEEDS, 12))
    mean, half = bars(plots.binned({"GBI": values}, bin_size=5), "GBI")
    bins = np.stack([values[:, a:b].mean(1) for a, b in ((0, 5), (5, 10), (10, 12))], 1)
    np.testing.assert_allclose(mean, bins.mean(0))
    np.testing.assert_allclose(half, bins.std(0, ddof=1) / 2)


def test_missing_seeds_are_left_out_and_one_seed_has_no_bar() -> None:
    values = np.array([[1.0, 2.0, np.nan], [3.0, np.nan, np.nan]])
    np.testing.assert_allclose(line(plots.curves({"GBI": values}), "GBI"), [2, 2, np.nan])
    mean, half = bars(plots.blocks({"GBI": values}), "GBI")
    np.testing.assert_allclose(mean, [2, 2, np.nan])
    np.testing.assert_allclose(half, [1, np.nan, np.nan])


def test_curves_differ_without_colour() -> None:
    ax = plots.curves({str(i): CURVES["GBI"] for i in range(4)})
    patterns = {(x.get_linestyle(), str(x._dash_pattern)) for x in ax.lines}
    assert len(patterns) == 4
    bars_ax = plots.blocks({str(i): CURVES["GBI"] for i in range(4)})
    assert len({c.lines[0].get_marker() for c in bars_ax.containers}) == 4


def test_binary_log_odds_show_every_pair_and_where_they_are_equal() -> None:
    ax = plots.binary_log_odds(PROBS, EXACT)
    np.testing.assert_array_equal(ax.lines[0].get_xdata(), PROBS.ravel())
    np.testing.assert_array_equal(ax.lines[0].get_ydata(), EXACT.ravel())
    assert ax.lines[1].get_slope() == 1
    assert ax.lines[1].get_xy1() == (0, 0)


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: plots.stream(Z[None], Z, [0.2]), r"x should have shape \(T\); got \(1, 30\)"),
        (lambda: plots.stream(Z, Z[:3], [0, 1, 2]), r"z should have shape \(30\); got \(3,\)"),
        (lambda: plots.task_probs(PROBS[0], EXACT[0, 1:]), r"exact .* \(30, 3\); got \(29, 3"),
        (lambda: plots.likelihood(Z), r"log_likelihood should have shape \(T, K\)"),
        (lambda: plots.curves({"GBI": Z}), r"values\['GBI'\] should have shape \(seeds, ste"),
        (
            lambda: plots.by_mean([0, 1], CURVES),
            r"errors\['GBI'\] .* \(seeds, 2\); got \(4, 3",
        ),
        (lambda: plots.binary_log_odds(Z, Z[1:]), r"estimate should have shape \(30\)"),
        (lambda: plots.binned(CURVES, 0), "bin_size should be at least 1; got 0"),
    ],
)
def test_invalid_shapes_are_named(draw: Callable[[], Axes], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        draw()


def test_saved_files_are_whole_and_the_same_each_time(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        figure = plots.curves(CURVES, floor=0.5).figure
        assert (
            plots.save_figure(figure, tmp_path / folder, "fig.1") == tmp_path / folder / "fig.1.png"
        )
    names = sorted(p.name for p in (tmp_path / "a").iterdir())
    assert names == ["fig.1.pdf", "fig.1.png"]
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert b"CreationDate" not in (tmp_path / "a" / "fig.1.pdf").read_bytes()
    image = imread(tmp_path / "a" / "fig.1.png")
    assert image.shape[1] == pytest.approx(6.4 * 150, rel=0.05)
    assert image[..., :3].min() < 0.1


def test_an_interrupted_save_leaves_the_old_files(tmp_path: Path) -> None:
    class Interrupted(Figure):
        def savefig(self, path: Path, **options: object) -> None:
            Path(path).write_text("half")
            raise KeyboardInterrupt

    (tmp_path / "a.png").write_text("old")
    with pytest.raises(KeyboardInterrupt):
        plots.save_figure(Interrupted(), tmp_path, "a")
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("a.png", "old")]


def test_no_figure_stays_open(tmp_path: Path) -> None:
    import matplotlib.pyplot as plt

    plt.switch_backend("Agg")
    before = plt.get_fignums()
    for draw in KINDS.values():
        draw(None)
    assert plt.get_fignums() == before
    figure, ax = plt.subplots()
    KINDS["curves"](ax)
    plots.save_figure(figure, tmp_path, "curves")
    assert plt.get_fignums() == before


def test_plots_need_neither_torch_nor_arviz_nor_pyplot() -> None:
    code = """
import sys
import gbi_pyro as gbi
gbi.plots.stream([0.2], [0], [0.2])
found = {"torch", "pyro", "arviz", "xarray", "matplotlib.pyplot"} & set(sys.modules)
sys.exit(f"imported {found}" if found else 0)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_histograms_are_shares_of_all_elements_extremes_included() -> None:
    inliers, outliers = np.arange(100.0), np.append(np.arange(50.0), 1e9)
    ax = plots.histograms(inliers, outliers)
    for stairs in ax.patches:
        assert stairs.get_data().values.sum() == pytest.approx(1.0)


def test_roc_curves_are_those_given() -> None:
    false, true = [0.0, 0.2, 1.0], [0.0, 0.7, 1.0]
    ax = plots.roc({"score": (false, true)})
    np.testing.assert_array_equal(ax.lines[0].get_xdata(), false)
    np.testing.assert_array_equal(ax.lines[0].get_ydata(), true)


def test_confusion_shows_shares_of_each_true_task() -> None:
    ax = plots.confusion([[3, 1], [0, 8]])
    np.testing.assert_allclose(ax.images[0].get_array(), [[0.75, 0.25], [0, 1]])
    assert [t.get_text() for t in ax.texts] == [".75", ".25", "1"]


def test_curves_lie_where_x_says() -> None:
    at = np.array([1.0, 10.0, 100.0])
    ax = plots.curves({"a": np.ones((2, 3))}, x=at, xlabel="words")
    np.testing.assert_array_equal(ax.lines[0].get_xdata(), at)
    with pytest.raises(ValueError, match=r"x should have shape \(3\)"):
        plots.curves({"a": np.ones((2, 3))}, x=at[:2])


def test_intervals_stand_beside_their_names() -> None:
    values = np.array([[1.0, 0.5, 2.0], [3.0, 2.0, 3.5]])
    ax = plots.intervals(["a", "b"], {"one": values, "two": values + 1}, xlabel="gain")
    assert [t.get_text() for t in ax.get_yticklabels()] == ["a", "b"]
    assert ax.yaxis.get_inverted()  # the first name on top
    for label, shift in (("one", 0), ("two", 1)):
        (found,) = [c for c in ax.containers if c.get_label() == label]
        points, _, (sticks,) = found.lines
        np.testing.assert_allclose(points.get_xdata(), values[:, 0] + shift)
        ends = np.array([segment[:, 0] for segment in sticks.get_segments()])
        np.testing.assert_allclose(ends, values[:, 1:] + shift)
    with pytest.raises(ValueError, match=r"estimates\['one'\] should have shape \(2, 3\)"):
        plots.intervals(["a", "b"], {"one": values[:1]}, xlabel="gain")


def test_a_reading_is_dark_where_the_posterior_is_sure_and_marks_the_true_task() -> None:
    ax = plots.task_heatmap(PROBS[0], Z, names=["chat", "mail", "news"])
    np.testing.assert_allclose(ax.images[0].get_array(), PROBS[0].T)
    assert ax.images[0].get_cmap().name == "Greys"
    marks = [c.get_segments()[0] for c in ax.collections]
    blocks = [(0, 0.5, 10.5), (1, 10.5, 15.5), (2, 15.5, 16.5), (1, 16.5, 30.5)]
    assert [(m[0, 1], m[0, 0], m[1, 0]) for m in marks] == blocks
    with pytest.raises(ValueError, match="z should have shape"):
        plots.task_heatmap(PROBS[0], Z[:-1])
