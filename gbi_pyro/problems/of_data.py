"""A problem made of data that exist, with their labels, and a trained model of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gbi_pyro.inference.enumeration import Enumeration
from gbi_pyro.inference.simulator import Drawn
from gbi_pyro.posterior import TaskPosterior
from gbi_pyro.problems._draws import check_count
from gbi_pyro.problems.problem import Problem
from gbi_pyro.relax import Model


@dataclass(frozen=True, eq=False)
class DataDraws:
    """Draw cases without replacement from data that exist.

    Attributes:
        args: what the model takes, cases first.
        labels: true task ids by site, ``(cases,)``.
    """

    args: tuple[Tensor, ...]
    labels: dict[str, Tensor]

    def __call__(self, n: int, generator: torch.Generator) -> Drawn:
        """Draw ``n`` cases."""
        check_count("n", n)
        have = len(self.args[0])
        if n > have:
            raise ValueError(f"n should be at most {have}, the cases there are; got {n}")
        rows = torch.randperm(have, generator=generator)[:n]
        return Drawn(
            tuple(a[rows] for a in self.args), {s: k[rows] for s, k in self.labels.items()}
        )


def from_data(
    name: str,
    model: Model,
    args: Sequence[Tensor],
    labels: Mapping[str, Tensor],
    *,
    exact: Callable[..., TaskPosterior] | None = None,
) -> Problem:
    """Return a problem made of held-out data with labels and a model that was trained on others.

    The true tasks are the labels, which the model may have wrong: its exact posterior is right
    about the model, and calibrated as far as the model is.

    Args:
        name: of the problem.
        model: a Pyro model with marked task sites; broadcast over leading dimensions, or give
            ``exact``.
        args: what the model takes, tensors with a row for each case.
        labels: true task ids of each site, ``(cases,)``.
        exact: the inference that returns the exact posterior; enumeration in chunks without.

    Raises:
        ValueError: for no data, or numbers of rows that differ.

    >>> from gbi_pyro.problems import switching
    >>> x = torch.tensor([0.1, 0.2, 0.9])
    >>> labels = {"z": torch.tensor([0, 0, 1])}
    >>> problem = from_data("three", switching(2).model, [x], labels)
    >>> problem.draw(2, torch.Generator().manual_seed(0)).tasks["z"].shape
    torch.Size([2])
    """
    rows = {f"args[{i}]": len(a) for i, a in enumerate(args)}
    rows |= {f"labels of {site!r}": len(k) for site, k in labels.items()}
    if not args or not labels or len({*rows.values()}) > 1 or not len(args[0]):
        raise ValueError(
            f"args and labels should have a row for each case, the same number; got {rows}"
        )
    draw = DataDraws(tuple(args), dict(labels))
    return Problem(name, model, draw, Enumeration(chunk_size=64) if exact is None else exact)
