"""Logistic regression of features, its penalty chosen on validation."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gbi_pyro.data.images import Images
from gbi_pyro.metrics.scores import accuracy

PENALTIES = (0.03, 0.01, 0.003, 0.001, 0.0003)
ITERATIONS = 40  # of L-BFGS for each penalty, from the weights of the one before


def fit_logistic(train: Images, validation: Images, num_classes: int) -> tuple[nn.Module, float]:
    """Return the most accurate classifier on validation features, and its penalty.

    Minimises -mean log p(y | phi) + penalty |W|^2 / 2, with W the weights of the standardised
    features, for one penalty after the other; the search ends where a smaller one is worse.

    Args:
        train: features ``(N, D)`` and classes, to fit.
        validation: to choose on.
        num_classes: K.
    """
    scale = train.x.std(0).clamp_min(1e-6)
    mean, D = train.x.mean(0), train.x.shape[-1]
    weight = torch.zeros(num_classes, D, requires_grad=True)
    bias = torch.zeros(num_classes, requires_grad=True)

    def logits(x: Tensor) -> Tensor:
        scaled = weight / scale
        return x @ scaled.mT + (bias - scaled @ mean)

    best, linear, chosen = -1.0, torch.nn.utils.skip_init(nn.Linear, D, num_classes), 0.0
    for penalty in PENALTIES:
        optimiser = torch.optim.LBFGS(
            [weight, bias], max_iter=ITERATIONS, history_size=20, line_search_fn="strong_wolfe"
        )

        def closure(optimiser: torch.optim.LBFGS = optimiser, penalty: float = penalty) -> Tensor:
            optimiser.zero_grad()
            fit = nn.functional.cross_entropy(logits(train.x), train.y)
            loss = fit + 0.5 * penalty * weight.square().sum()
            loss.backward()
            return loss

        optimiser.step(closure)
        with torch.no_grad():
            found = accuracy(logits(validation.x).log_softmax(-1), validation.y)
            if found <= best:
                break
            best, chosen = found, penalty
            linear.weight.copy_(weight / scale)
            linear.bias.copy_(bias - (weight / scale) @ mean)
    return linear.requires_grad_(False), chosen
