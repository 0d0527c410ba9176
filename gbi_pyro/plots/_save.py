"""Figures as files."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from matplotlib.figure import Figure

from gbi_pyro.files import replacing


def save_figure(fig: Figure, folder: str | os.PathLike[str], name: str) -> Path:
    """Write ``name``.png (150 dpi) and ``name``.pdf, whole or not at all, and close the figure.

    No date is written: the same figure gives the same bytes. Returns the path of the PNG.

    >>> import tempfile
    >>> from gbi_pyro import plots
    >>> figure = plots.binary_log_odds([0.0, 1.0], [0.1, 0.9]).figure
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     plots.save_figure(figure, folder, "odds").name
    'odds.png'
    """
    png = Path(folder) / f"{name}.png"
    for path, metadata in ((png, None), (png.with_name(f"{name}.pdf"), {"CreationDate": None})):
        with replacing(path) as temporary:
            fig.savefig(temporary, dpi=150, bbox_inches="tight", metadata=metadata)
    # pyplot knows only the figures that it made itself, and is loaded then.
    if pyplot := sys.modules.get("matplotlib.pyplot"):
        pyplot.close(fig)
    return png
