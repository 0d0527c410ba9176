"""A quantity over two others, each cell with its number."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from numpy.typing import ArrayLike

from gbi_pyro.plots.style import Ax, checked_array, new_axes

SMALLEST = 1e-6  # nats that are told apart from none


def plot_divergence_map(
    divergence: ArrayLike,
    num_tasks: Sequence[int],
    sigma: Sequence[float],
    ax: Ax = None,
    *,
    title: str = "KL(exact || estimate), nats",
) -> Axes:
    """Draw a divergence, (len(num_tasks), len(sigma)), over the number of tasks and the noise.

    Grey is logarithmic. What is below 1e-6 nats, which rounding alone may make, is white and not
    told apart. NaN leaves a cell empty.

    >>> ax = plot_divergence_map([[1e-9, 1e-3], [3.0, 0.1]], num_tasks=[2, 5], sigma=[0.1, 0.3])
    >>> [text.get_text() for text in ax.texts]
    ['<1e-6', '0.001', '3', '0.1']
    """
    values = checked_array("divergence", divergence, len(num_tasks), len(sigma))
    if np.any(values < 0):
        raise ValueError(f"divergence should be 0 or more; got {np.nanmin(values):g}")
    low, high = SMALLEST, max(10.0, float(np.nanmax(values, initial=0.0)))
    ax = new_axes(ax, "noise sigma", "number of tasks K", size=(1.6 + 0.75 * len(sigma), 3.0))
    ax.imshow(np.clip(values, low, high), cmap="Greys", norm=LogNorm(low, high), aspect="auto")
    for (i, j), value in np.ndenumerate(values):
        if np.isfinite(value):
            # White letters on what is darker than half of the (logarithmic) scale.
            dark = value > low * (high / low) ** 0.55
            words = f"{value:.2g}" if value >= low else f"<{low:g}".replace("e-0", "e-")
            colour = "white" if dark else "black"
            ax.text(j, i, words, ha="center", va="center", color=colour, size=8)
    ax.set_xticks(range(len(sigma)), [f"{s:g}" for s in sigma])
    ax.set_yticks(range(len(num_tasks)), [str(k) for k in num_tasks])
    ax.set_title(title, fontsize=9)
    return ax
