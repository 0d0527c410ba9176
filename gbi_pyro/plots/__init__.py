"""Figures of results: arrays in, matplotlib axes out.

Every ``plot_*`` draws on ``ax``, or on a new figure of its own (``ax.figure``), and returns the
axes. Arrays may be of any kind that numpy reads; a wrong shape is a ValueError that says which was
expected. Curves differ by line style and marker as well as by colour. Over seeds, the first
dimension, the mean is drawn with its standard error; NaN marks a seed without a value. Steps and
blocks count from 1. Tables are read by the names of their columns, attributes or keys. ``ylabel``
names what is drawn, with its unit; ``names`` those of the K tasks; ``floor`` is a level, or several
by name, drawn as dotted lines; ``hull`` the smallest and largest mean seen in training, shaded;
``log`` asks for a logarithmic y axis.
"""

from gbi_pyro.plots.comparison import plot_comparison, plot_comparisons
from gbi_pyro.plots.coverage import plot_credible_coverage
from gbi_pyro.plots.curves import (
    plot_binned,
    plot_blocks,
    plot_by_mean,
    plot_curves,
    plot_every_seed,
    plot_predicted_mean,
)
from gbi_pyro.plots.grid import plot_divergence_map
from gbi_pyro.plots.images import (
    plot_confusion,
    plot_histograms,
    plot_image_grid,
    plot_plane,
    plot_roc,
)
from gbi_pyro.plots.intervals import plot_intervals
from gbi_pyro.plots.odds import plot_log_odds
from gbi_pyro.plots.ranks import plot_ranks
from gbi_pyro.plots.reliability import plot_reliability
from gbi_pyro.plots.selective import plot_risk_coverage
from gbi_pyro.plots.series import (
    plot_evidence,
    plot_gradients,
    plot_likelihood,
    plot_reading,
    plot_stream,
    plot_task_probs,
)
from gbi_pyro.plots.style import save_figure

__all__ = [
    "plot_binned",
    "plot_blocks",
    "plot_by_mean",
    "plot_comparison",
    "plot_comparisons",
    "plot_confusion",
    "plot_credible_coverage",
    "plot_curves",
    "plot_divergence_map",
    "plot_every_seed",
    "plot_evidence",
    "plot_gradients",
    "plot_histograms",
    "plot_image_grid",
    "plot_intervals",
    "plot_likelihood",
    "plot_log_odds",
    "plot_plane",
    "plot_predicted_mean",
    "plot_ranks",
    "plot_reading",
    "plot_reliability",
    "plot_risk_coverage",
    "plot_roc",
    "plot_stream",
    "plot_task_probs",
    "save_figure",
]
