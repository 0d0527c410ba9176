"""How curves look: colour, dash and marker, by the name of the curve or by its position."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# Ten colours that differ for colour-blind readers: Okabe and Ito's without yellow, then Tol's.
COLOURS = (
    *("#000000", "#D55E00", "#0072B2", "#009E73", "#CC79A7"),
    *("#E69F00", "#56B4E9", "#882255", "#999933", "#332288"),
)
# Dashes are short, because curves are noisy.
DASHES = ("-", (0, (4, 1)), (0, (4, 1, 1, 1)), (0, (1, 1)), (0, (4, 1, 1, 1, 1, 1)), (0, (8, 2)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*")


@dataclass(frozen=True)
class Style:
    """The look of a curve. Wider curves lie behind narrower ones.

    Attributes:
        colour: any colour of matplotlib.
        dash: any line style of matplotlib.
        marker: of points, and of means with their intervals.
        width: of the line, in points.

    >>> exact, estimate = Style("0.6", width=4.0), Style("black", width=1.0)
    >>> exact.line["zorder"] < estimate.line["zorder"]
    True
    """

    colour: str
    dash: str | tuple[float, tuple[float, ...]] = "-"
    marker: str = "o"
    width: float = 1.5

    @property
    def line(self) -> dict[str, Any]:
        """Return the options of a line."""
        order = 2.5 - self.width / 10
        line = {"color": self.colour, "linestyle": self.dash, "linewidth": self.width}
        return {**line, "zorder": order}

    @property
    def points(self) -> dict[str, Any]:
        """Return the options of points with error bars, without a line."""
        points = {"color": self.colour, "linestyle": "none", "marker": self.marker}
        return {**points, "markersize": 4, "capsize": 2, "elinewidth": 0.8}


Styles = Mapping[str, Style] | None
BY_POSITION = tuple(
    Style(colour, DASHES[i % len(DASHES)], MARKERS[i]) for i, colour in enumerate(COLOURS)
)


def style_of(styles: Styles, name: str, i: int) -> Style:
    """Return the style of a curve: by its name if that is in ``styles``, or else the i-th one.

    >>> style_of({"exact": Style("0.6")}, "exact", 3).colour
    '0.6'
    """
    return (styles or {}).get(name, BY_POSITION[i % len(BY_POSITION)])
