"""Figures of results: arrays in, matplotlib axes out.

Every function draws on ``ax``, or on a new figure of its own (``ax.figure``), and returns the
axes. Arrays may be of any kind that numpy reads; a wrong shape is a ValueError that says which was
expected. Tables are read by the names of their columns, attributes or keys. Over seeds, the first
dimension, the mean is drawn with its standard error; NaN marks a seed without a value. Steps and
blocks count from 1. Shares are fractions.

``styles`` gives curves a ``Style`` (colour, dash, marker, width) by name; others have one by their
position. All differ without colour, too. The legend stands above the axes, or beside them if it has
more than six entries. The axis of the values has an arrow if ``better`` is ``"higher"`` or
``"lower"``, and is logarithmic if ``log``. ``xlabel`` and ``ylabel`` name what is drawn, with its
unit; ``names`` those of the K tasks; ``floor`` is a level, or several by name, drawn as dotted
lines; ``hull`` the smallest and largest mean seen in training, shaded; ``title`` is any text.

>>> ax = curves({"exact": [[0.2, 0.1]]}, styles={"exact": Style("0.6", width=4)}, better="lower")
>>> ax.lines[0].get_color()
'0.6'
"""

from gbi_pyro.plots._save import save_figure
from gbi_pyro.plots._style import Style
from gbi_pyro.plots.calibration import credible_coverage, ranks, reliability, risk_coverage
from gbi_pyro.plots.chains import dwell_times, transitions, transitions_by
from gbi_pyro.plots.estimates import comparison, comparisons, intervals
from gbi_pyro.plots.matrices import confusion, divergence_map, image_grid
from gbi_pyro.plots.over_seeds import binned, blocks, by_mean, curves, every_seed, predicted_mean
from gbi_pyro.plots.predictive import autocorrelation, predictive_check
from gbi_pyro.plots.scatter import binary_log_odds, log_odds, plane
from gbi_pyro.plots.scores import histograms, roc
from gbi_pyro.plots.series import gradients, likelihood, stream, task_heatmap, task_probs
from gbi_pyro.plots.session import psychometric, session

__all__ = [
    "Style",
    "autocorrelation",
    "binary_log_odds",
    "binned",
    "blocks",
    "by_mean",
    "comparison",
    "comparisons",
    "confusion",
    "credible_coverage",
    "curves",
    "divergence_map",
    "dwell_times",
    "every_seed",
    "gradients",
    "histograms",
    "image_grid",
    "intervals",
    "likelihood",
    "log_odds",
    "plane",
    "predicted_mean",
    "predictive_check",
    "psychometric",
    "ranks",
    "reliability",
    "risk_coverage",
    "roc",
    "save_figure",
    "session",
    "stream",
    "task_heatmap",
    "task_probs",
    "transitions",
    "transitions_by",
]
