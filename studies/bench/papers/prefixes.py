"""What every combination of tasks of a MetaHMM says of a sequence as it comes in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from gbi_pyro.joint import combinations
from gbi_pyro.problems import MetaHMM, Problem


class Prefixes(NamedTuple):
    """The forward filter of every combination, in the order of ``combinations``, float64.

    Attributes:
        log_posterior: log p(z | x_1..t) for t = 0..T, ``(N, T + 1, combinations)``.
        next_symbol: p(x_t+1 | x_1..t, z), ``(N, T + 1, combinations, symbols)``.
    """

    log_posterior: Tensor
    next_symbol: Tensor

    def predictive(self) -> Tensor:
        """Return the exact p(x_t+1 | x_1..t), ``(N, T + 1, symbols)``."""
        return averaged(self.log_posterior.exp(), self.next_symbol)

    def given(self, at: Tensor) -> Tensor:
        """Return p(x_t+1 | x_1..t, z) for one combination of each case, ``(N, T + 1, symbols)``."""
        return self.next_symbol[torch.arange(len(at)), :, at]


def averaged(weights: Tensor, next_symbol: Tensor) -> Tensor:
    """Return sum_z q(z) p(x | z), ``(..., symbols)``, of weights ``(..., combinations)``."""
    return (weights.unsqueeze(-2) @ next_symbol).squeeze(-2)


def model_of(problem: Problem) -> MetaHMM:
    """Return the MetaHMM of a problem."""
    assert isinstance(problem.model, MetaHMM)
    return problem.model


def combination(sizes: Mapping[str, int], tasks: Mapping[str, Tensor]) -> Tensor:
    """Return the numbers of combinations in the order of ``combinations``, the shape of the ids.

    >>> combination({"a": 2, "b": 3}, {"a": torch.tensor([1]), "b": torch.tensor([2])})
    tensor([5])
    """
    at = torch.zeros((), dtype=torch.long)
    for name, size in sizes.items():
        at = at * size + tasks[name]
    return at


@torch.no_grad()
def read_prefixes(model: MetaHMM, x: Tensor) -> Prefixes:
    """Filter sequences ``(N, T)`` under every combination of tasks, which are equally probable."""
    sizes = model.sizes
    corners = {n: one_hot(ids, sizes[n]).to(model.base) for n, ids in combinations(sizes).items()}
    A, B = (table.double() for table in model.matrices(corners))
    state = A.new_full((len(x), len(A), 1, A.shape[-1]), 1 / A.shape[-1])
    score = A.new_zeros(len(x), len(A))
    scores, symbols = [score], [state @ B]
    for seen in x.T:
        state = state * B[:, :, seen].permute(2, 0, 1).unsqueeze(-2)
        scale = state.sum(-1, keepdim=True)
        score, state = score + scale.log()[..., 0, 0], (state / scale) @ A
        scores.append(score)
        symbols.append(state @ B)
    return Prefixes(torch.stack(scores, 1).log_softmax(-1), torch.stack(symbols, 1).squeeze(-2))


def both_ways(p: Tensor, q: Tensor) -> Tensor:
    """Return KL(p || q) + KL(q || p) in nats of positive probabilities, ``(...)``.

    >>> both_ways(torch.tensor([0.5, 0.5]), torch.tensor([0.5, 0.5]))
    tensor(0.)
    """
    return ((p - q) * (p.log() - q.log())).sum(-1)
