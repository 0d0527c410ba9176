"""The network of a learned refiner: how a step changes the log probabilities of the tasks."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils import skip_init

LogProbs = dict[str, Tensor]


class RefinerNetwork(nn.Module):
    r"""Map log q and the gradient at q to the log q of the next step, for all sites together.

        log q <- log_softmax((1 - r_t) log q + r_t (g + log pi) + MLP_t)

    with the step size r_t, learned, and a multilayer perceptron of two hidden layers that reads
    log q / 4, sign(g) log(1 + |g|), tanh(g / 5), tanh(g), features of the data and the step. Its
    last layer starts at zero: untrained, the steps are damped mirror ascent. Of g only differences
    between tasks count, so that its mean over tasks is subtracted.

    Args:
        sizes: number of tasks by site.
        steps: how many steps there are.
        hidden: width of the hidden layers.
        num_features: how many features of the data each element has.
        use_gradient: whether g is read; without it only the prior pulls.
        generator: draws the first weights; torch's own random state without one.

    >>> network = RefinerNetwork({"z": 3}, steps=2)
    >>> sorted(network.state_dict())[:2]
    ['mlp.0.bias', 'mlp.0.weight']
    """

    def __init__(
        self,
        sizes: Mapping[str, int],
        steps: int,
        hidden: int = 96,
        num_features: int = 0,
        use_gradient: bool = True,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.sizes, self.steps, self.num_features = dict(sizes), steps, num_features
        self.use_gradient = use_gradient
        size = sum(self.sizes.values())
        inputs = size * (4 if use_gradient else 1) + num_features + steps
        self.mlp = nn.Sequential(
            _linear(inputs, hidden, generator),
            nn.GELU(),
            _linear(hidden, hidden, generator),
            nn.GELU(),
            _linear(hidden, size, generator),
        )
        for parameter in self.mlp[-1].parameters():
            nn.init.zeros_(parameter)
        self.step_size_logits = nn.Parameter(torch.full((steps,), -1.0))

    @property
    def step_sizes(self) -> Tensor:
        """The learned step sizes r_t, between 0 and 1, ``(steps,)``."""
        return self.step_size_logits.sigmoid()

    def forward(
        self,
        step: int,
        log_q: Mapping[str, Tensor],
        gradient: Mapping[str, Tensor],
        log_prior: Mapping[str, Tensor],
        features: Tensor | None = None,
    ) -> LogProbs:
        """Return the log probabilities after a step, by site.

        Args:
            step: its number, from 0.
            log_q: log probabilities before it, by site, ``batch_shape + (K,)``.
            gradient: g, likewise.
            log_prior: log pi, likewise; -inf for forbidden tasks, which stay so.
            features: of the data, ``batch_shape + (num_features,)``.
        """
        forbidden = {n: log_prior[n].isneginf() for n in self.sizes}
        q, prior = _without(log_q, forbidden), _without(log_prior, forbidden)
        g = {n: _centred(gradient[n], forbidden[n]) for n in self.sizes}
        read = [*(v / 4 for v in q.values())]
        if self.use_gradient:
            for squash in (
                lambda v: v.sign() * v.abs().log1p(),
                lambda v: (v / 5).tanh(),
                torch.tanh,
            ):
                read.extend(squash(v) for v in g.values())
        if features is not None:
            read.append(features)
        at = torch.nn.functional.one_hot(torch.tensor(step), self.steps).to(read[0])
        read.append(at.expand(*read[0].shape[:-1], self.steps))
        inputs = torch.cat(read, -1).to(self.step_size_logits)
        moves = self.mlp(inputs).split(list(self.sizes.values()), -1)
        rate = self.step_sizes[step]
        found = {}
        for name, move in zip(self.sizes, moves, strict=True):
            logits = (1 - rate) * q[name] + rate * (g[name] + prior[name]) + move
            found[name] = logits.masked_fill(forbidden[name], -torch.inf).log_softmax(-1)
        return found


def _without(values: Mapping[str, Tensor], forbidden: Mapping[str, Tensor]) -> LogProbs:
    """Return values with 0 for forbidden tasks, in place of -inf."""
    return {n: values[n].masked_fill(where, 0.0) for n, where in forbidden.items()}


def _centred(gradient: Tensor, forbidden: Tensor) -> Tensor:
    """Subtract the mean over the tasks that the prior allows."""
    g = gradient.masked_fill(forbidden, 0.0)
    mean = g.sum(-1, keepdim=True) / (~forbidden).sum(-1, keepdim=True)
    return (g - mean).masked_fill(forbidden, 0.0)


def _linear(inputs: int, outputs: int, generator: torch.Generator | None) -> nn.Linear:
    """Return a layer with torch's own first weights, drawn from a generator."""
    layer: nn.Linear = skip_init(nn.Linear, inputs, outputs)  # draws nothing from the global state
    for parameter in layer.parameters():
        nn.init.uniform_(parameter, -(inputs**-0.5), inputs**-0.5, generator=generator)
    return layer
